"""Which conditions differ between ranks, and whether all ranks reach the same collectives."""

import dataclasses
import itertools
import re
from collections.abc import Mapping, Sequence
from typing import Final

from d9d_check.facts import Call, Entry, Facts, Frame, Guard, Watcher
from d9d_check.framework import canonical
from d9d_check.marked import MARKED
from d9d_check.marks import marks_of, marks_of_method
from d9d_check.source import Module
from d9d_check.values import (
    NONE,
    UNKNOWN,
    Attribute,
    ClassDefinition,
    Constant,
    Container,
    Definition,
    Differs,
    External,
    Function,
    Instance,
    Local,
    Method,
    Site,
    Steady,
    Tensor,
    Typed,
    Unknown,
    Value,
    Values,
    immutable,
    in_order,
    individual,
)

_COLLECTIVES: Final = frozenset(
    {
        *("all_reduce", "all_gather", "all_gather_object", "all_gather_into_tensor", "all_to_all", "all_to_all_single"),
        *("barrier", "monitored_barrier", "broadcast", "broadcast_object_list", "gather", "gather_object", "reduce"),
        *("reduce_scatter", "reduce_scatter_tensor", "scatter", "scatter_object_list", "new_group", "new_subgroups"),
        *("split_group", "all_gather_tensor", "all_gather_single", "all_gather_coalesced", "all_reduce_coalesced"),
    }
)
_POINT_TO_POINT: Final = frozenset({"send", "recv", "isend", "irecv", "send_object_list", "recv_object_list"})
_CALLED_BY_LOOPS: Final = frozenset(
    {
        *("compute_loss", "build_forward_inputs", "process_outputs", "create_metrics", "state_dict", "load_state_dict"),
        *("initialize_model_stage", "parallelize_model_stage", "register_events", "__init__"),
    }
)
_PAIR: Final = "send and recv"
_CHECKPOINTS: Final = frozenset({"save", "async_save", "load"})
_STATE_DICTS: Final = frozenset(
    {
        *("get_state_dict", "get_model_state_dict", "get_optimizer_state_dict"),
        *("set_state_dict", "set_model_state_dict", "set_optimizer_state_dict"),
    }
)
_PARTICIPANTS: Final = frozenset({"group", "process_group", "pg", "no_dist", "use_local_synchronization", "mesh"})
_RANK_FUNCTIONS: Final = frozenset({"get_rank", "get_node_local_rank", "get_group_rank"})
_RANK_METHODS: Final = frozenset({"get_rank", "get_local_rank", "get_coordinate"})
_RANK_VARIABLES: Final = frozenset(
    {
        *("RANK", "LOCAL_RANK", "NODE_RANK", "GROUP_RANK", "SLURM_PROCID", "SLURM_LOCALID", "SLURM_NODEID"),
        *("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_LOCAL_RANK", "PMI_RANK", "PMIX_RANK", "MV2_COMM_WORLD_RANK"),
        *("HOSTNAME", "SLURMD_NODENAME"),
    }
)
_FLAGS: Final = frozenset(
    f"is_{which}{what}"
    for which in ("main", "master", "rank_zero", "rank0", "global_zero", "local_main", "world_main", "first_rank")
    for what in ("", "_process", "_rank")
)
_RANK_ATTRIBUTES: Final = frozenset(
    {"is_main_process", "data_parallel_rank", "pipeline_rank", "rank", "local_rank", "global_rank"}
)
_OF_ONE_PROCESS: Final = frozenset(
    {
        *(f"time.{name}" for name in ("time", "monotonic", "perf_counter", "process_time", "time_ns", "monotonic_ns")),
        *("time.perf_counter_ns", "datetime.datetime.now", "datetime.datetime.utcnow", "datetime.date.today"),
        *(f"random.{name}" for name in ("random", "randint", "choice", "uniform", "randrange", "gauss", "sample")),
        *(f"numpy.random.{name}" for name in ("rand", "randn", "random", "randint", "uniform", "choice", "normal")),
        *("uuid.uuid4", "uuid.uuid1", "secrets.token_hex", "secrets.randbelow", "builtins.hash", "builtins.id"),
        *(f"os.path.{name}" for name in ("exists", "isfile", "isdir", "getmtime", "getsize")),
        *("os.listdir", "os.scandir", "glob.glob", "glob.iglob", "os.access", "shutil.disk_usage"),
        *("os.getpid", "socket.gethostname", "platform.node", "os.uname"),
    }
)
"""Functions of which each process gets its own result: the clock, random numbers, files, the machine."""
_OF_PATHS: Final = frozenset({"exists", "is_file", "is_dir", "stat", "glob", "rglob", "iterdir"})
_OF_DEVICES: Final = frozenset(
    {
        *("memory_allocated", "max_memory_allocated", "memory_reserved", "max_memory_reserved", "mem_get_info"),
        *("utilization", "temperature", "power_draw", "current_device", "current_device_index"),
    }
)
"""Functions of `torch` that say something about the device of a process."""
_LOCAL_FIELDS: Final = {
    "ComputeLossContext": frozenset({"outputs", "batch"}),
    "BuildForwardInputsContext": frozenset({"batch"}),
    "ProcessOutputsContext": frozenset({"outputs", "batch", "samples"}),
    "EventLossReadyContext": frozenset({"outputs", "batch", "loss", "loss_weight"}),
    "EventInferenceOutputsReadyContext": frozenset({"outputs", "batch", "samples"}),
}
"""The fields of contexts that hold data of one rank."""
_SAME_IN_ALL_DATA: Final = frozenset(
    {"ndim", "device", "dtype", "requires_grad", "is_leaf", "is_cuda", "layout", "names"}
)
_SAME_METHODS: Final = frozenset({"dim", "ndimension", "stride", "is_contiguous", "element_size", "keys", "items"})
_VIEWS: Final = frozenset({"to", "copy", "detach", "detach_", "view", "reshape", "squeeze", "flatten", "contiguous"})
_ONLY_OF_TENSORS: Final = frozenset(
    {"detach", "float", "bfloat16", "half", "softmax", "log_softmax", "norm", "masked_fill", "clone"}
)
_NUMBERS: Final = frozenset({"item", "numel", "equal", "allclose", "is_nonzero"})
_FAILING: Final = frozenset(
    {
        *("builtins.open", "builtins.next", "torch.load", "torch.save", "json.load", "json.loads", "os.remove"),
        *("os.rename", "os.replace", "os.makedirs", "os.mkdir", "os.unlink", "os.stat", "os.listdir"),
    }
)
_FAILING_PATHS: Final = frozenset(
    {
        *("read_text", "read_bytes", "write_text", "write_bytes", "open", "mkdir", "unlink", "rename", "replace"),
        *("stat", "touch", "rmdir"),
    }
)
"""What fails on one rank alone, as files and networks do."""
_FAILING_MODULES: Final = (
    *("shutil.", "subprocess.", "urllib.", "requests.", "socket.", "pickle.", "tarfile.", "zipfile."),
)
_RAISED_ALONE: Final = frozenset(
    {
        *("Exception", "BaseException", "RuntimeError", "ValueError", "OSError", "IOError", "EnvironmentError"),
        *("FileNotFoundError", "FileExistsError", "PermissionError", "ConnectionError", "TimeoutError"),
        *("ConnectionResetError", "ConnectionRefusedError", "InterruptedError", "BrokenPipeError", "EOFError"),
        *("MemoryError", "OutOfMemoryError", "JSONDecodeError", "UnicodeDecodeError", "StopIteration", "Empty"),
        *("Full", "HTTPError", "URLError", "RequestException", "CalledProcessError", "TimeoutExpired"),
        *("ArithmeticError", "ZeroDivisionError", "FloatingPointError", "OverflowError", "UnpicklingError"),
    }
)
"""Exceptions that one rank may meet and another not, by the name of their class."""
_MAX_CONDITION: Final = 60
_QUOTED: Final = re.compile('"(.+?)"')
_CONTEXT: Final = "d9d.core.dist_context.DistributedContext"
_QUIET: Final = frozenset(
    {
        *("log", "info", "debug", "warning", "error", "write", "append", "close", "flush", "update", "add_scalar"),
        "print",
    }
)
"""Methods of unknown objects that call no collectives of the program."""
_MAIN_ONLY: Final = '"main_process_only"'


@immutable
class Collective:
    """A collective that is called.

    Attributes:
        name: Its name.
        site: Where.
        entry: What was run from outside.
    """

    name: str
    site: Site
    entry: Entry


@immutable
class _MayFail:
    """Something that may raise an exception on one rank alone."""


@immutable
class _MayBeAny:
    """A call of something unknown, which may call collectives."""


@individual
class _LeftEarly:
    """Some ranks leave a function or a loop here.

    Attributes:
        why: Why not all do.
        guard: The condition.
        done: What these ranks have done since the condition.
        ends_with_loop: Whether they leave a loop, or a round of it.
    """

    why: Differs
    guard: Guard
    done: list[object]
    ends_with_loop: bool


class Divergence(Watcher):
    """Sees collectives, and conditions that differ between ranks."""

    names = frozenset(
        _COLLECTIVES | _POINT_TO_POINT | _RANK_FUNCTIONS | _RANK_ATTRIBUTES | _STATE_DICTS | {"full_tensor"}
    ) | {name.rpartition(".")[2] for name in MARKED if not name.startswith("Ranks.")}

    def __init__(self) -> None:
        super().__init__()
        self._done: dict[Definition, list[Collective]] = {}  # what a function does that is run from outside
        self._found: dict[Site, tuple[Collective, Differs]] = {}
        self._reduced: set[tuple[ClassDefinition | Entry, Local]] = set()  # data of a rank that a collective reduces
        # Attributes that are assigned something else than data of one rank; of any class if that is not known.
        self._assigned: set[tuple[ClassDefinition | None, str]] = set()
        self._agreed: set[tuple[ClassDefinition, str]] = (
            set()
        )  # attributes that all ranks assign alike, later than first
        self._mappings: set[tuple[Entry, str]] = set()  # batches that are indexed with what iterating over them yields

    # What differs

    def attribute(self, owner: Value, name: str, frame: Frame, site: Site) -> Values | None:  # noqa: ARG002 -- the signature of Watcher
        """Return ranks, and flags about them."""
        is_context = isinstance(owner, Typed) and owner.name == _CONTEXT
        if (is_context and name in _RANK_ATTRIBUTES) or name.lstrip("_") in _FLAGS:
            return frozenset({Differs(f'"{name}"')})
        if is_context and name in {"world_size", "device", "mesh_parameters"}:
            return frozenset({Steady()})
        if isinstance(owner, Typed):
            if name in _LOCAL_FIELDS.get(canonical(owner.name), ()):
                return _field(name)
            if owner.name == "torch.device" and name == "index":
                return frozenset({Differs('the "index" of a device')})
        return _attribute_of_data(owner, name)

    def item(self, owner: Values, index: Values, frame: Frame, site: Site) -> Values | None:
        """Return variables of the environment, and parts of the data of a rank."""
        if External("os.environ") in owner:
            return self._variable(index)
        differing = frozenset(value for value in owner if isinstance(value, Differs))
        if differing and not any(isinstance(value, Container) for value in owner):
            return differing
        shapes = [value.owner for value in in_order(owner) if isinstance(value, Attribute) and value.name == "shape"]
        of_local = next((value for value in shapes if isinstance(value, Local)), None)
        if of_local is not None:
            return frozenset({of_local.on_host() if Constant(0) in index else Steady()})
        local = frozenset(found for value in owner if (found := _local_in(value)) is not None)
        if any(isinstance(value, Local) for value in index):
            self._mappings.update((frame.entry, each.why) for each in local)
        step = next((value.value for value in in_order(index) if isinstance(value, Constant)), site)
        return frozenset(each.part(step) for each in local) or None

    def write(self, owner: Instance, name: str, values: Values, frame: Frame, site: Site) -> None:  # noqa: ARG002 -- the signature of Watcher
        """See that an attribute is assigned."""
        if not any(isinstance(value, Local) for value in values):
            self._assigned.add((owner.definition, name))
        is_first = frame.function is not None and frame.function.definition.name in {"__init__", "__post_init__"}
        if not is_first and not any(isinstance(value, Differs) for value in values):
            self._agreed.add((owner.definition, name))

    def wrote_elsewhere(self, name: str, values: Values) -> None:  # noqa: ARG002 -- the signature of Watcher
        """See that an attribute of something unknown is assigned."""
        self._assigned.add((None, name))

    @staticmethod
    def _variable(index: Values) -> Values | None:
        names = {value.value for value in index if isinstance(value, Constant)}
        found = sorted(str(name) for name in names if name in _RANK_VARIABLES)
        return frozenset({Differs(f'the variable "{found[0]}"')}) if found else None

    # Calls

    def external_call(self, name: str, call: Call) -> Values | None:
        """See a collective; return what differs."""
        module, _, last = name.rpartition(".")
        self.marked(marks_of(name), last, call)
        if name in _FAILING or name.startswith(_FAILING_MODULES):
            call.frame.trace.append(_MayFail())
        if module.startswith("torch.distributed"):
            return self._distributed(module, last, call)
        if name in {"os.getenv", "os.environ.get"}:
            return self._variable(call.get(0, "key"))
        if name in _OF_ONE_PROCESS or (last in _OF_DEVICES and module.startswith("torch.")):
            return frozenset({Differs(f'"{name}"', is_steady=False)})
        if not name.startswith(("builtins.", "torch.", "d9d.", "logging.", "os.", "math.", "time.", "functools.")):
            call.frame.trace.append(_MayBeAny())
        return None

    def _distributed(self, module: str, name: str, call: Call) -> Values | None:
        if name in _RANK_FUNCTIONS:
            return frozenset({Differs(f'"{name}"')})
        if name in {"is_initialized", "is_available", "get_world_size", "get_backend"}:
            return frozenset({Steady()})
        is_checkpoint = module.startswith("torch.distributed.checkpoint") and name in _CHECKPOINTS | _STATE_DICTS
        if is_checkpoint or name in _COLLECTIVES | _POINT_TO_POINT:
            self._collective(_PAIR if name in _POINT_TO_POINT else name, call)
            if name not in _POINT_TO_POINT:
                self._reduce(call)
            tensors = frozenset(value for value in call.everything() if isinstance(value, Tensor))
            return tensors or UNKNOWN
        return None

    def _reduce(self, call: Call) -> None:
        """See that data of this rank is given to a collective, unless only such data decides whether it is."""
        given = call.everything()
        entry = call.frame.entry
        deciding = {why.source for guard in call.frame.guards if (why := guard.differs) is not None}
        for value in given | self.elements(given):
            local = value.source if isinstance(value, Differs) else _local_in(value)
            if local is not None and not any(why is not None and why.is_from(local) for why in deciding):
                self._reduced.add((entry.owner or entry, local.part()))

    def marked(self, marks: frozenset[str], name: str, call: Call) -> None:
        """See a call of a function that is marked."""
        if "collective" in marks:
            self._collective(name, call)
            self._reduce(call)

    def _collective(self, name: str, call: Call) -> None:
        chooses = any(
            key in _PARTICIPANTS and values != NONE and values != frozenset({Constant(value=False)})
            for key, values in call.named.items()
        )
        chooses |= any(
            isinstance(value, Typed) and value.name.rpartition(".")[2] in {"ProcessGroup", "DeviceMesh"}
            for value in call.everything()
        )
        if not chooses:
            call.frame.trace.append(Collective(name, call.site, call.frame.entry))

    def method_call(self, owner: Value, name: str, call: Call) -> Values | None:
        """See a collective of d9d or of a `DTensor`; return ranks."""
        if name in _RANK_METHODS:
            return frozenset({Differs(f'"{name}"')})
        if isinstance(owner, Differs):
            return frozenset({owner})
        local = _local_in(owner)
        if local is not None:
            return self._local_method(local, name, call)
        self.marked(marks_of_method(owner, name), name, call)
        if isinstance(owner, Typed):
            return self._typed_method(owner, name, call)
        if isinstance(owner, Tensor) and name == "full_tensor":
            self._collective(name, call)
        root = owner.owner if isinstance(owner, Attribute) else owner
        if isinstance(root, Unknown | Instance) and name not in _QUIET:
            call.frame.trace.append(_MayBeAny())
        return None

    @staticmethod
    def _local_method(local: Local, name: str, call: Call) -> Values:
        if name in {"full_tensor", "redistribute"}:
            return frozenset({Tensor()})
        if name in _NUMBERS or (name == "size" and call.get(0, "dim") == frozenset({Constant(0)})):
            return frozenset({local.on_host()})
        if name in _SAME_METHODS | {"size"} or (local.is_whole and name == "values"):
            return UNKNOWN
        if name in {"cpu", "numpy", "tolist"} or (name == "to" and Constant("cpu") in call.everything()):
            return frozenset({local.copied()})
        found = local if name in _VIEWS else local.part((name, call.site))
        return frozenset({found, Tensor()}) if name in _ONLY_OF_TENSORS else frozenset({found})

    def _typed_method(self, owner: Typed, name: str, call: Call) -> Values | None:
        if owner.name == _CONTEXT:
            if name == "main_process_first":
                return frozenset(
                    {Differs('"main_process_first" lets the main process run the block before the others')}
                )
            return frozenset({Typed("torch.distributed.device_mesh.DeviceMesh")}) if name == "mesh_for" else None
        if owner.name.endswith(".DeviceMesh") and name == "get_group":
            return frozenset({Typed("torch.distributed.ProcessGroup")})
        if owner.name == "pathlib.Path":
            if name in _FAILING_PATHS:
                call.frame.trace.append(_MayFail())
            if name in _OF_PATHS:
                return frozenset({Differs(f'"Path.{name}"', is_steady=False)})
            return frozenset({owner}) if name in {"with_suffix", "with_name", "joinpath", "resolve"} else None
        return None

    # Paths

    def branched(
        self, guard: Guard, frame: Frame, sides: tuple[list[object], list[object]], ended: tuple[str, str]
    ) -> None:
        """Compare the collectives of both sides of a condition that differs between ranks."""
        left = [outcome in {"return", "break"} for outcome in ended]
        why = guard.differs
        if any(left) and not all(left):
            around = why or next((each.differs for each in frame.guards if each.differs is not None), None)
            if around is not None and "raise" not in ended:
                number = left.index(True)
                frame.trace.append(_LeftEarly(around, guard, sides[number], ends_with_loop=ended[number] == "break"))
            return
        if why is not None and "raise" not in ended:
            # "or" may hold on all ranks for its other reason.
            first = [] if guard.is_either else sides[0]
            self._compare(first, sides[1], guard, why, frame)

    def _compare(self, one: list[object], other: list[object], guard: Guard, why: Differs, frame: Frame) -> None:
        first, second = ([each for each in side if isinstance(each, Collective)] for side in (one, other))
        number = next(
            (number for number, (a, b) in enumerate(zip(first, second, strict=False)) if a.name != b.name),
            min(len(first), len(second)),
        )
        if number == len(first) == len(second):
            return
        # Of two that differ, one that the other side calls later is not the one that is missing there.
        is_later = number < len(first) and first[number].name in {each.name for each in second[number:]}
        is_second = number == len(first) or (is_later and second[number].name not in {each.name for each in first})
        alone, facing = (second[number], one) if is_second else (first[number], other)
        if not any(isinstance(each, _MayBeAny) for each in facing):
            frame.unmatched.append((guard, why, alone))

    def repeated(self, source: Values, items: Values, frame: Frame, done: list[object]) -> None:
        """See collectives in a loop that ranks run differently."""
        for number, each in enumerate(done):
            if isinstance(each, _LeftEarly) and each.ends_with_loop:
                self._compare(each.done, done[number + 1 :], each.guard, each.why, frame)
        done[:] = [each for each in done if not (isinstance(each, _LeftEarly) and each.ends_with_loop)]
        why = Guard(source, Site("", 1, 0, 1, 0)).differs
        whole = next((value for value in in_order(source) if isinstance(value, Local)), None)
        if why is None and whole is not None and whole in source and not _is_tensor_in(source):
            why = dataclasses.replace(whole.on_host(), is_iterated=True)
        is_set = bool(source) and all(isinstance(value, Container) and value.kind == "set" for value in source)
        if is_set and any(_is_text(value) for value in items):
            why = Differs("the order of a set of strings")
        self._reach_differently(done, why)

    def enclosed(self, managers: Values, done: list[object]) -> None:
        """See collectives in a block that ranks run at different times."""
        self._reach_differently(done, next((value for value in in_order(managers) if isinstance(value, Differs)), None))

    def caught(self, kinds: Values, frame: Frame, done: list[object]) -> Values | None:  # noqa: ARG002 -- the signature of Watcher
        """Return whether an exception is raised, if one rank may meet it alone."""
        names = {value.name.rpartition(".")[2] for value in kinds if isinstance(value, External)}
        alone = sorted(names & _RAISED_ALONE) if kinds else ["an exception"]
        number = next((number for number, each in enumerate(done) if isinstance(each, _MayFail | _MayBeAny)), None)
        if "OutOfMemoryError" in alone:  # which anything may raise
            number = -1
        if not alone or number is None:
            return None
        # All ranks have done what comes before.
        del done[: number + 1]
        done[:] = [each for each in done if not isinstance(each, _MayBeAny)]
        return frozenset({Differs(f"whether {' or '.join(alone)} is raised", is_steady=False)})

    def attempted(self, tried: list[list[object]], handlers: list[list[object]], final: list[object]) -> list[object]:
        """Return what a `try` statement has done; who leaves it early does what ends it, too."""
        for each in itertools.chain(*tried, *handlers):
            if isinstance(each, _LeftEarly):
                each.done.extend(final)
        return super().attempted(tried, handlers, final)

    def _reach_differently(self, done: list[object], why: Differs | None) -> None:
        for each in done if why is not None else ():
            if isinstance(each, Collective) and each.name != "main_process_first" and why is not None:
                self._find(each, why)

    def _find(self, collective: Collective, why: Differs) -> None:
        known = self._found.get(collective.site)
        if known is None or (not _is_called(known[0].entry) and _is_called(collective.entry)):
            self._found[collective.site] = (collective, why)

    def finished(self, frame: Frame) -> None:
        """Compare what is left when a call ends."""
        for number, each in enumerate(frame.trace):
            if isinstance(each, _LeftEarly):
                self._compare(each.done, frame.trace[number + 1 :], each.guard, each.why, frame)
        frame.trace[:] = [each for each in frame.trace if not isinstance(each, _LeftEarly)]
        unmatched: list[tuple[Guard, Differs, Collective]] = frame.unmatched
        for _, why, collective in unmatched:
            # Two conditions of one function may be each other's opposite: each rank then calls it once.
            num_guards = len({other.site for other, _, each in unmatched if each.name == collective.name})
            places = {each.site for each in frame.trace if isinstance(each, Collective) and each.name == _PAIR}
            is_paired = collective.name == _PAIR and len(places) > 1
            if num_guards == 1 and not is_paired:
                self._find(collective, why)
        if frame.depth == 1 and frame.function is not None:
            self._done.setdefault(frame.function.definition, []).extend(
                each for each in frame.trace if isinstance(each, Collective)
            )
        if frame.entry.is_on_main_only and frame.depth == 1:
            self._reach_differently(frame.trace, Differs(_MAIN_ONLY))

    # The rule

    def _check_registrations(self, facts: Facts) -> None:
        """See collectives in handlers that only some ranks subscribe."""
        conditions: dict[Definition, list[Differs | None]] = {}
        for each in facts.registrations:
            handler = each.handler.function if isinstance(each.handler, Method) else each.handler
            if isinstance(handler, Function):
                why = next((guard.differs for guard in each.guards if guard.differs is not None), None)
                conditions.setdefault(handler.definition, []).append(why)
        for definition, reasons in conditions.items():
            known = [why for why in reasons if why is not None]
            if len(known) == 1 == len(reasons):  # several may be each other's opposite
                self._reach_differently(list(self._done.get(definition, ())), known[0])

    def _is_assigned(self, local: Local) -> bool:
        if local.attribute is None:
            return False
        kind, attribute = local.attribute
        return any(
            name == attribute and (owner is None or owner in kind.ancestry or kind in owner.ancestry)
            for owner, name in self._assigned
        )

    def _is_same_everywhere(self, entry: Entry, why: Differs) -> bool:
        """Return whether a value that seems to differ has been reduced, or is none of one rank."""
        local = why.source
        if local is None:
            return why.attribute is not None and why.attribute in self._agreed
        return (
            any(owner is (entry.owner or entry) and local.is_from(other) for owner, other in self._reduced)
            or self._is_assigned(local)
            or (why.is_iterated and (entry, local.why) in self._mappings)
        )

    def report(self, facts: Facts, modules: Sequence[Module]) -> None:
        """Report collectives that some ranks reach and others do not."""
        texts = {module.key: module.text for module in modules}
        self._check_registrations(facts)
        for site, (collective, differs) in self._found.items():
            entry = collective.entry
            if not _is_called(entry) or self._is_same_everywhere(entry, differs):
                continue
            events = " and ".join(sorted(map(str, entry.events)))
            subject = f'Handler "{entry.name}" of {events}' if entry.events else f'"{entry.name or "this module"}"'
            facts.report(
                "d9d-collective",
                f'{subject} calls "{collective.name}" on some ranks only, because {_reason(differs, texts)}: these '
                "ranks wait forever for the others. Call it on every rank, and keep under the condition only what one "
                "rank does alone, such as printing or writing",
                site,
            )


def _reason(differs: Differs, texts: Mapping[str, str]) -> str:
    """Return why ranks differ: the condition as it stands in the source if it is short, and what it depends on."""
    if differs.why == _MAIN_ONLY:
        return "only the main process calls this handler (main_process_only=True)"
    text = _source_of(differs.condition, texts)
    if not text:
        return f"{differs.why} differs between ranks"
    named = _QUOTED.search(differs.why)
    is_named = named is not None and named[1].rpartition(".")[2] in re.findall(r"\w+", text)
    return (
        f'"{text}" differs between ranks'
        if is_named
        else f'"{text}" depends on {differs.why}, which differs between ranks'
    )


def _source_of(site: Site | None, texts: Mapping[str, str]) -> str:
    """Return what stands at a place, if it is one short line."""
    if site is None or site.line != site.end_line or not 0 < site.end_column - site.column <= _MAX_CONDITION:
        return ""
    lines = texts.get(site.module, "").splitlines()[site.line - 1 : site.line]
    found = lines[0].encode(errors="replace")[site.column : site.end_column] if lines else b""
    return found.decode(errors="replace").replace('"', "'")


def _is_called(entry: Entry) -> bool:
    """Return whether something is known to call what has been run from outside."""
    return entry.kind not in {"method", "construct"} or entry.name in _CALLED_BY_LOOPS


def _field(name: str) -> Values:
    """Return what a field of a context holds that each rank has for itself."""
    local = Local(f'the "{name}" of each rank', is_whole=name in {"outputs", "batch"})
    return frozenset({Tensor(), local}) if name == "loss" else frozenset({local})


def _attribute_of_data(owner: Value, name: str) -> Values | None:
    """Return an attribute of what differs between ranks, which may be a method."""
    if isinstance(owner, Differs):
        return frozenset({Attribute(owner, name), owner})
    local = _local_in(owner)
    if local is None:
        return None
    if name in _SAME_IN_ALL_DATA:
        return frozenset({Steady()})
    return frozenset({Attribute(local, name)} if name == "shape" else {Attribute(local, name), local.part(name)})


def _local_in(value: Value) -> Local | None:
    """Return the data of a rank that a value is, or is an attribute of."""
    if isinstance(value, Attribute) and isinstance(value.owner, Local):
        return value.owner.part(value.name)
    return value if isinstance(value, Local) else None


def _is_tensor_in(values: Values) -> bool:
    return any(isinstance(value, Tensor) for value in values)


def _is_text(value: Value) -> bool:
    is_literal = isinstance(value, Constant) and isinstance(value.value, str)
    return is_literal or value == Typed("builtins.str")
