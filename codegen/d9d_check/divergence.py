"""Which conditions differ between ranks, and whether all ranks reach the same collectives."""

import dataclasses
from typing import Final

from d9d_check.facts import Call, Entry, Facts, Frame, Guard, Watcher
from d9d_check.values import (
    NONE,
    UNKNOWN,
    Attribute,
    Constant,
    Container,
    Differs,
    External,
    Instance,
    Site,
    Steady,
    Tensor,
    Typed,
    Unknown,
    Value,
    Values,
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
_OF_RUNS: Final = frozenset({"save", "export"})
_RANK_FUNCTIONS: Final = frozenset({"get_rank", "get_node_local_rank", "get_group_rank"})
_RANK_METHODS: Final = frozenset({"get_rank", "get_local_rank", "get_coordinate"})
_RANK_VARIABLES: Final = frozenset(
    {"RANK", "LOCAL_RANK", "NODE_RANK", "GROUP_RANK", "SLURM_PROCID", "SLURM_LOCALID", "OMPI_COMM_WORLD_RANK"}
)
_FLAGS: Final = frozenset(
    f"is_{which}{what}"
    for which in ("main", "master", "rank_zero", "rank0", "global_zero", "local_main", "world_main", "first_rank")
    for what in ("", "_process", "_rank")
)
_RANK_ATTRIBUTES: Final = frozenset(
    {"is_main_process", "data_parallel_rank", "pipeline_rank", "rank", "local_rank", "global_rank"}
)
_CLOCKS: Final = frozenset(f"time.{name}" for name in ("time", "monotonic", "perf_counter", "time_ns", "monotonic_ns"))
_RANDOM: Final = frozenset(f"random.{name}" for name in ("random", "randint", "choice", "uniform", "randrange"))
_FILES: Final = frozenset(f"os.path.{name}" for name in ("exists", "isfile", "isdir"))
_CONTEXT: Final = "d9d.core.dist_context.DistributedContext"
_QUIET: Final = frozenset(
    {
        *("log", "info", "debug", "warning", "error", "write", "append", "close", "flush", "update", "add_scalar"),
        "print",
    }
)
"""Methods of unknown objects that call no collectives of the program."""


@dataclasses.dataclass(frozen=True)
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


@dataclasses.dataclass(frozen=True)
class _MayBeAny:
    """A call of something unknown, which may call collectives."""


@dataclasses.dataclass(frozen=True, eq=False)
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
        _COLLECTIVES | _POINT_TO_POINT | _RANK_FUNCTIONS | _RANK_ATTRIBUTES | {"wait_world", "main_process_first"}
    )

    def __init__(self) -> None:
        super().__init__()
        self._unmatched: dict[int, list[tuple[Guard, Differs, Collective]]] = {}
        self._found: dict[Site, tuple[Collective, str]] = {}

    # What differs

    def attribute(self, owner: Value, name: str, frame: Frame, site: Site) -> Values | None:  # noqa: ARG002 -- the signature of Watcher
        """Return ranks, and flags about them."""
        is_context = isinstance(owner, Typed) and owner.name == _CONTEXT
        if (is_context and name in _RANK_ATTRIBUTES) or name.lstrip("_") in _FLAGS:
            return frozenset({Differs(f'"{name}"')})
        if is_context and name in {"world_size", "device", "mesh_parameters"}:
            return frozenset({Steady()})
        return None

    def item(self, owner: Values, index: Values, frame: Frame, site: Site) -> Values | None:  # noqa: ARG002 -- the signature of Watcher
        """Return variables of the environment."""
        return self._variable(index) if External("os.environ") in owner else None

    @staticmethod
    def _variable(index: Values) -> Values | None:
        names = {value.value for value in index if isinstance(value, Constant)}
        found = sorted(str(name) for name in names if name in _RANK_VARIABLES)
        return frozenset({Differs(f'the variable "{found[0]}"')}) if found else None

    # Calls

    def external_call(self, name: str, call: Call) -> Values | None:
        """See a collective; return what differs."""
        module, _, last = name.rpartition(".")
        if module.startswith("torch.distributed"):
            return self._distributed(module, last, call)
        if name in {"os.getenv", "os.environ.get"}:
            return self._variable(call.get(0, "key"))
        if name in _CLOCKS:
            return frozenset({Differs(f'"{name}"', is_steady=False)})
        if name in _RANDOM:
            return frozenset({Differs(f'"{name}"', is_steady=False)})
        if name in _FILES:
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
            tensors = frozenset(value for value in call.everything() if isinstance(value, Tensor))
            return tensors or UNKNOWN
        return None

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
        if isinstance(owner, Typed):
            return self._typed_method(owner, name, call)
        if isinstance(owner, Tensor) and name == "full_tensor":
            self._collective(name, call)
        root = owner.owner if isinstance(owner, Attribute) else owner
        if isinstance(root, Typed) and _is_run(root) and name in _OF_RUNS:
            self._collective(name, call)
        elif isinstance(root, Unknown | Instance) and name not in _QUIET:
            call.frame.trace.append(_MayBeAny())
        return None

    def _typed_method(self, owner: Typed, name: str, call: Call) -> Values | None:
        if owner.name == _CONTEXT:
            if name == "wait_world":
                self._collective(name, call)
            if name == "main_process_first":
                return frozenset(
                    {Differs('"main_process_first" lets the main process run the block before the others')}
                )
            return frozenset({Typed("torch.distributed.device_mesh.DeviceMesh")}) if name == "mesh_for" else None
        if owner.name.endswith(".DeviceMesh") and name == "get_group":
            return frozenset({Typed("torch.distributed.ProcessGroup")})
        if owner.name == "pathlib.Path" and name in {"exists", "is_file", "is_dir"}:
            return frozenset({Differs(f'"Path.{name}"', is_steady=False)})
        if _is_run(owner) and name in _OF_RUNS:
            self._collective(name, call)
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
        alone, facing = (first[number], other) if number < len(first) else (second[number], one)
        if not any(isinstance(each, _MayBeAny) for each in facing):
            self._unmatched.setdefault(id(frame), []).append((guard, why, alone))

    def repeated(self, source: Values, items: Values, frame: Frame, done: list[object]) -> None:
        """See collectives in a loop that ranks run differently."""
        for number, each in enumerate(done):
            if isinstance(each, _LeftEarly) and each.ends_with_loop:
                self._compare(each.done, done[number + 1 :], each.guard, each.why, frame)
        done[:] = [each for each in done if not (isinstance(each, _LeftEarly) and each.ends_with_loop)]
        why = next((value.why for value in source if isinstance(value, Differs)), "")
        is_set = bool(source) and all(isinstance(value, Container) and value.kind == "set" for value in source)
        if is_set and any(_is_text(value) for value in items):
            why = "the order of a set of strings"
        self._reach_differently(done, why)

    def enclosed(self, managers: Values, done: list[object]) -> None:
        """See collectives in a block that ranks run at different times."""
        self._reach_differently(done, next((value.why for value in managers if isinstance(value, Differs)), ""))

    def _reach_differently(self, done: list[object], why: str) -> None:
        for each in done if why else ():
            if isinstance(each, Collective):
                self._found.setdefault(each.site, (each, why))

    def finished(self, frame: Frame) -> None:
        """Compare what is left when a call ends."""
        for number, each in enumerate(frame.trace):
            if isinstance(each, _LeftEarly):
                self._compare(each.done, frame.trace[number + 1 :], each.guard, each.why, frame)
        frame.trace[:] = [each for each in frame.trace if not isinstance(each, _LeftEarly)]
        unmatched = self._unmatched.pop(id(frame), [])
        for _, why, collective in unmatched:
            # Two conditions of one function may be each other's opposite: each rank then calls it once.
            num_guards = len({id(other) for other, _, each in unmatched if each.name == collective.name})
            places = {each.site for each in frame.trace if isinstance(each, Collective) and each.name == _PAIR}
            is_paired = collective.name == _PAIR and len(places) > 1
            if num_guards == 1 and not is_paired:
                self._found.setdefault(collective.site, (collective, why.why))
        if frame.entry.is_on_main_only and frame.depth == 1:
            for each in frame.trace:
                if isinstance(each, Collective):
                    self._found.setdefault(each.site, (each, '"main_process_only"'))

    # The rule

    def report(self, facts: Facts) -> None:
        """Report collectives that some ranks reach and others do not."""
        for site, (collective, why) in self._found.items():
            entry = collective.entry
            if entry.kind in {"method", "construct"} and entry.name not in _CALLED_BY_LOOPS:
                continue  # nothing is known to call it
            events = " and ".join(sorted(map(str, entry.events)))
            subject = f'Handler "{entry.name}" of {events}' if entry.events else f'"{entry.name or "this module"}"'
            facts.report(
                "d9d-collective",
                f'{subject} calls "{collective.name}" on some ranks only, because {why} differs between ranks: these '
                "ranks wait forever for the others. Call it on every rank, and keep under the condition only what one "
                "rank does alone, such as printing or writing",
                site,
            )


def _is_text(value: Value) -> bool:
    is_literal = isinstance(value, Constant) and isinstance(value.value, str)
    return is_literal or value == Typed("builtins.str")


def _is_run(value: Typed) -> bool:
    return value.name.startswith("d9d.") and value.name.rpartition(".")[2] in {"Trainer", "Inference"}
