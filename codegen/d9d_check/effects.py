"""What tensors do, and what makes the host wait for the device: a handler of every step must not."""

from collections.abc import Collection, Iterator, Sequence
from typing import Final

from d9d_check.facts import Assigned, Call, Entry, Facts, Frame, Watcher
from d9d_check.marks import marks_of, marks_of_method
from d9d_check.source import Module
from d9d_check.values import (
    NONE,
    NOTHING,
    UNKNOWN,
    Attribute,
    ClassDefinition,
    Constant,
    Container,
    Definition,
    Differs,
    Instance,
    Local,
    Site,
    Steady,
    Tensor,
    Typed,
    Unknown,
    Value,
    Values,
    Varies,
    immutable,
    is_module,
)

_WAITING_METHODS: Final = frozenset({"item", "tolist", "cpu", "numpy"})
_SEARCHES: Final = frozenset(
    {
        *("nonzero", "unique", "unique_consecutive", "masked_select", "allclose", "equal", "argwhere", "is_nonzero"),
        "bincount",
    }
)
"""Functions and methods whose result depends on what is in the tensor, so that the host must see it."""
_STEADY_ATTRIBUTES: Final = frozenset(
    {"shape", "ndim", "device", "dtype", "requires_grad", "is_leaf", "is_cuda", "layout", "names"}
)
_STEADY_METHODS: Final = frozenset({"size", "dim", "numel", "ndimension", "stride", "is_contiguous", "element_size"})
_FACTORIES: Final = frozenset(
    {
        *("tensor", "as_tensor", "from_numpy", "scalar_tensor", "zeros", "ones", "empty", "full", "eye", "arange"),
        *("linspace", "logspace", "rand", "randn", "randint", "randperm", "get_rng_state"),
    }
)
_SIZED: Final = frozenset({"zeros", "ones", "empty", "full", "eye", "arange", "randint", "rand", "randn", "randperm"})
"""Functions that make a tensor of a size that is given in numbers."""
_CONVERSIONS: Final = frozenset({"float", "int", "bool", "str", "repr", "format"})
_LOG_METHODS: Final = frozenset({"info", "warning", "error", "critical", "exception", "log"})
_LOGGERS: Final = frozenset({"logging.Logger", "logging.LoggerAdapter", "d9d.core.dist_context.RankLogger"})
_LOGGING: Final = frozenset({"logging", "loguru.logger", "absl.logging"})
_PRINTERS: Final = frozenset({"pprint.pprint", "pprint.pp", "pprint.pformat", "rich.print", "tqdm.tqdm.write"})
_TABLES: Final = frozenset({"csv.writer", "csv.DictWriter"})
_TRACKERS: Final = frozenset({"wandb", "mlflow", "swanlab", "trackio", "comet_ml", "neptune", "aim"})
"""Packages whose functions that begin with `log` turn tensors into numbers."""
_PROGRESS_METHODS: Final = frozenset({"set_postfix", "set_description", "set_postfix_str", "set_description_str"})
_WRITER_METHODS: Final = frozenset({"add_scalar", "add_scalars", "add_histogram", "add_image", "add_text"})
_METHODS_OF_MODULES: Final = frozenset(
    {
        *("parameters", "buffers", "named_parameters", "named_buffers"),
        *("modules", "children", "named_modules", "named_children", "state_dict", "forward"),
    }
)
_OF_TENSORS: Final = frozenset({"item", "cpu", "tolist", "nonzero", "unique", "unique_consecutive"})
_MASKED: Final = "selects from a tensor with a mask"
_CONSTRUCTORS: Final = frozenset({"__init__", "__post_init__", "__new__"})
_OUTPUTS_READY: Final = "inference.outputs.ready"
_STEPPER: Final = "d9d.core.stepper.Stepper"
_OF_STEPPER: Final[dict[str, Values]] = {
    "current_step": frozenset({Varies()}),
    "is_last": frozenset({Varies(is_rare=True)}),
    "is_finished": frozenset({Varies(is_rare=True)}),
    "total_steps": frozenset({Steady()}),
}
_RETURNED: Final[dict[str, Values]] = {
    "logging.getLogger": frozenset({Typed("logging.Logger")}),
    "torch.cuda.current_stream": frozenset({Typed("torch.Stream")}),
    "torch.accelerator.current_stream": frozenset({Typed("torch.Stream")}),
}
_IN_EVERY_STEP: Final = frozenset({"compute_loss", "build_forward_inputs"})
_READING_ALLOWED: Final = frozenset({"process_outputs"})
"""What loops call in every step to bring tensors to the host."""
_OF_METRICS: Final = frozenset({"update", "accumulate", "share", "reset"})
"""Methods of metrics that must not wait: their values are read when they have reached the host."""
_WORK: Final = "torch.distributed.Work"
_ON_HOST: Final = frozenset(
    {
        *("barrier", "monitored_barrier", "all_gather_object", "gather_object", "broadcast_object_list"),
        *("scatter_object_list", "send_object_list", "recv_object_list"),
    }
)
"""Functions of `torch.distributed` for which the host waits: for other ranks, or for pickled objects."""
_CHECKPOINTS: Final = frozenset({"save", "async_save", "load"})
_TEST: Final = "tests whether a tensor is true"
_TESTED: Final = (
    'do it only every N steps, as under "if ctx.stepper.is_due(N):", or leave the choice to the device, as with '
    "torch.where"
)
_READ: Final = (
    'do it only every N steps, as under "if ctx.stepper.is_due(N):", or keep the tensor on the device with ".detach()"'
)
_MET: Final = (
    'do it only every N steps, as under "if ctx.stepper.is_due(N):", or leave it out: collectives on tensors need no '
    "waiting of the host"
)
_MARKED: Final = 'do it only every N steps, as under "if ctx.stepper.is_due(N):"'


@immutable
class Wait:
    """A place where the host waits for the device.

    Attributes:
        what: What it does, for messages.
        site: Where.
        entry: What was run from outside.
        is_certain: Whether it does so each time that the handler is called.
        remedy: What to do, for messages.
        needs: The attributes that must have been assigned, and not been reset, for it to happen.
        is_of_array: Whether what is read may be an array, in a program that collates by itself.
    """

    what: str
    site: Site
    entry: Entry
    is_certain: bool
    remedy: str = _READ
    needs: Assigned = frozenset()
    is_of_array: bool = False


class Effects(Watcher):
    """Sees what is done with tensors."""

    names = frozenset(
        {
            *(_WAITING_METHODS | _SEARCHES | _WRITER_METHODS | {"synchronize", "to", "is_due"}),
            *("info", "warning", "error", "print", "format", "float", "int"),
            *_ON_HOST,
            *("wait", "async_op", "collective", "waits_for_device", "process_outputs"),
            *_PROGRESS_METHODS,
        }
    )

    def __init__(self) -> None:
        super().__init__()
        self.waits: list[Wait] = []
        self._started: Entry | None = None  # the run whose last call has started a collective
        # Attributes that may become `None` again; of any class if that is not known.
        self._reset: set[tuple[ClassDefinition | None, str]] = set()
        self._run: set[Definition] = set()

    def _wait(self, what: str, frame: Frame, site: Site, remedy: str = _READ, *, is_of_array: bool = False) -> None:
        is_certain = all(guard.is_steady or guard.lasts_with is not None for guard in frame.guards)
        needs: Assigned = frozenset().union(*(guard.lasts_with or () for guard in frame.guards if not guard.is_steady))
        if remedy != _READ:  # ranks that wait for each other in turn do so on purpose
            is_certain &= not any(guard.differs for guard in frame.guards) and not frame.entry.is_on_main_only
        self.waits.append(Wait(what, site, frame.entry, is_certain, remedy, needs, is_of_array))

    # Attributes and items

    def write(self, owner: Instance, name: str, values: Values, frame: Frame, site: Site) -> None:  # noqa: ARG002 -- the signature of Watcher
        """See that an attribute may become `None` again."""
        is_first = frame.function is not None and frame.function.definition.name in _CONSTRUCTORS
        if not is_first and any(isinstance(value, Unknown) or value == Constant(None) for value in values):
            self._reset.add((owner.definition, name))

    def finished(self, frame: Frame) -> None:
        """See that a function has been followed, with all that it assigns."""
        if frame.function is not None:
            self._run.add(frame.function.definition)

    def wrote_elsewhere(self, name: str, values: Values) -> None:  # noqa: ARG002 -- the signature of Watcher
        """See that an attribute of something unknown is assigned."""
        self._reset.add((None, name))

    def attribute(self, owner: Value, name: str, frame: Frame, site: Site) -> Values | None:  # noqa: ARG002 -- the signature of Watcher
        """Return attributes of tensors, modules and steppers."""
        if isinstance(owner, Tensor):
            if name in _STEADY_ATTRIBUTES:
                return frozenset({Steady()})
            return frozenset({Tensor(owner.is_on_host)}) if name in {"grad", "data", "T", "mT", "real"} else None
        if isinstance(owner, Typed) and owner.name == _STEPPER:
            return _OF_STEPPER.get(name)
        # A submodule, a parameter or a buffer; what it really is cannot be seen.
        module = owner.owner if isinstance(owner, Attribute) else owner
        is_part = is_module(module) and name not in _METHODS_OF_MODULES
        return frozenset({Attribute(module, name)}) if is_part else None

    def item(self, owner: Values, index: Values, frame: Frame, site: Site) -> Values | None:
        """See a mask; return items of tensors and of shapes."""
        index |= self._items(frozenset(value for value in index if getattr(value, "kind", "") == "tuple"))
        tensors = [value for value in owner if isinstance(value, Tensor)]
        if tensors:
            is_masked = any(isinstance(value, Tensor) and value.is_mask for value in index)
            if is_masked and not all(tensor.is_on_host for tensor in tensors):
                self._wait(_MASKED, frame, site)
            found = Tensor(all(tensor.is_on_host for tensor in tensors))
            return frozenset({found, *(value.part() for value in owner if isinstance(value, Local))})
        is_data = any(isinstance(value, Local) and not value.is_on_host for value in owner)
        if is_data and any(isinstance(value, Tensor | Local) and value.is_mask for value in index):
            self._wait(_MASKED, frame, site, is_of_array=True)
        if any(isinstance(value, Container) and value.kind in {"list", "tuple"} for value in owner):
            self._see(index, "uses a tensor as an index", frame, site)
        return frozenset({Steady()}) if owner and all(isinstance(value, Steady) for value in owner) else None

    # Calls

    def method_call(self, owner: Value, name: str, call: Call) -> Values | None:
        """See a call of a method of a tensor, a module, a logger or a writer."""
        started, self._started = self._started, None
        if name == "wait" and started is call.frame.entry and owner == Typed(_WORK):
            self._started = started  # the next of several
            what = 'calls ".wait()" right after it has started a collective'
            self._wait(what, call.frame, call.site, _MET)
        self.marked(marks_of_method(owner, name), name, call)
        if isinstance(owner, Tensor):
            return self._tensor_method(owner, name, call)
        if isinstance(owner, Typed):
            return self._typed_method(owner, name, call)
        local = owner.owner if isinstance(owner, Attribute) else owner
        if name in _OF_TENSORS and not call.arguments and isinstance(local, Local) and not local.is_on_host:
            is_of_array = name in {"tolist", "nonzero"}
            self._wait(f'calls ".{name}()" on a tensor', call.frame, call.site, is_of_array=is_of_array)
        if name == "item" and not call.arguments and isinstance(owner, Unknown):
            self._wait('calls ".item()" on a tensor', call.frame, call.site)
            return UNKNOWN
        if name == "format" and isinstance(owner, Constant):
            self._shown(call, "formats a tensor")
        return None

    def _tensor_method(self, tensor: Tensor, name: str, call: Call) -> Values:
        if name in _STEADY_METHODS:
            return frozenset({Steady()})
        if name == "to" and _names_the_host(call):
            if not tensor.is_on_host and Constant(value=True) not in call.named.get("non_blocking", NOTHING):
                self._wait('calls ".to(...)" to move a tensor to the host', call.frame, call.site)
            return frozenset({Tensor(is_on_host=True)})
        if tensor.is_on_host:
            return UNKNOWN if name in _WAITING_METHODS - {"cpu"} else frozenset({tensor})
        if name in _WAITING_METHODS or name in _SEARCHES:
            self._wait(f'calls ".{name}()" on a tensor', call.frame, call.site)
        if any(isinstance(value, Tensor) and not value.is_on_host for value in call.named.get("alpha", NOTHING)):
            self._wait(f'passes a tensor as the number "alpha" of ".{name}()"', call.frame, call.site)
        if name == "cpu":
            return frozenset({Tensor(is_on_host=True)})
        return UNKNOWN if name in {"item", "tolist", "numpy", "equal", "allclose"} else frozenset({Tensor()})

    def _typed_method(self, owner: Typed, name: str, call: Call) -> Values | None:
        if owner.name == _STEPPER and name == "is_due":
            return (
                frozenset({Steady()})
                if call.get(0, "period_steps") == frozenset({Constant(1)})
                else frozenset({Varies(is_rare=True)})
            )
        if is_module(owner) and name in {"item", "tolist"}:  # a parameter or a buffer of it
            self._wait(f'calls ".{name}()" on a tensor', call.frame, call.site)
        if name == "synchronize" and owner.name.startswith("torch."):
            self._wait('calls ".synchronize()"', call.frame, call.site)
        if owner.name in _TABLES and name in {"writerow", "writerows"}:
            self._shown(call, f'passes a tensor to ".{name}()"')
        if owner.name in _LOGGERS and name in _LOG_METHODS:
            self._shown(call, "logs a tensor")
        if owner.name.partition(".")[0] in _TRACKERS and name.startswith("log"):
            self._shown(call, f'passes a tensor to ".{name}()"')
        if owner.name.startswith("tqdm.") and name in _PROGRESS_METHODS:
            self._shown(call, f'passes a tensor to ".{name}()"')
        if owner.name.endswith("dist_context.DistributedContext") and name == "logger":
            return frozenset({Typed("logging.Logger")})
        if owner.name.rpartition(".")[2] == "SummaryWriter" and name in _WRITER_METHODS:
            self._shown(call, f'passes a tensor to ".{name}()"')
        return None

    def external_call(self, name: str, call: Call) -> Values | None:
        """See a call of a function of torch, of logging, or of Python itself."""
        module, _, last = name.rpartition(".")
        self._started = None
        self.marked(marks_of(name), last, call)
        if module == "builtins":
            return self._builtin(last, call)
        if module in _LOGGING and last in _LOG_METHODS:
            self._shown(call, "logs a tensor")
        if name in _PRINTERS:
            self._shown(call, "prints a tensor")
        if name in _RETURNED or name == "torch.device":
            return _RETURNED.get(name, call.get(0, "type"))
        if module in {"numpy", "math"} or (module in _TRACKERS and last.startswith("log")):
            self._shown(call, f'passes a tensor to "{name}"')
        if module.startswith("torch.distributed"):
            return self._distributed(name, call)
        if not name.startswith("torch."):
            return None
        return self._torch_function(name, last, call)

    def _distributed(self, name: str, call: Call) -> Values | None:
        """See a function for which the host waits."""
        module, _, last = name.rpartition(".")
        if last in _ON_HOST:
            self._wait(f'calls "{last}"', call.frame, call.site, _MET)
        elif module.startswith("torch.distributed.checkpoint") and last in _CHECKPOINTS:
            self._wait(f'calls "{last}" of torch.distributed.checkpoint', call.frame, call.site, _MARKED)
        elif last in {"isend", "irecv"} or Constant(value=True) in call.named.get("async_op", NOTHING):
            self._started = call.frame.entry
            return frozenset({Typed(_WORK)})
        return None

    def marked(self, marks: frozenset[str], name: str, call: Call) -> None:
        """See a call of a function that is marked."""
        if "waits_for_device" in marks:
            self._wait(f'calls "{name}"', call.frame, call.site, _MARKED)

    def _torch_function(self, name: str, last: str, call: Call) -> Values | None:
        if last == "synchronize":
            self._wait(f'calls "{name}"', call.frame, call.site)
            return NONE
        if name == f"torch.{last}" and last in _FACTORIES:
            self._made(name, last, call)
            return frozenset({Tensor(is_on_host="device" not in call.named)})
        given = self._everything_in(call.everything())
        tensors = [value for value in given if isinstance(value, Tensor)]
        local = [value.part() for value in given if isinstance(value, Local)]
        is_search = last in _SEARCHES or (name == "torch.where" and len(call.arguments) == 1)
        if not tensors:
            if is_search and (any(not each.is_on_host for each in local) or _is_parameter(given)):
                self._wait(f'calls "{name}" on a tensor', call.frame, call.site)
            is_on_host = all(each.is_on_host for each in local)
            return frozenset({Tensor(is_on_host), *local}) if local else None
        is_on_host = all(tensor.is_on_host for tensor in tensors)
        if not is_on_host and (is_search or name == "torch.save"):
            self._wait(f'calls "{name}" on a tensor', call.frame, call.site)
        if last in {"is_tensor", "is_floating_point", "numel"}:
            return frozenset({Steady()})
        if last in {"equal", "allclose", "save"}:
            return frozenset(each.on_host() for each in local) or UNKNOWN
        return frozenset({Tensor(is_on_host), *local})

    def _made(self, name: str, last: str, call: Call) -> None:
        """See that a new tensor has its size or its values from tensors."""
        given = call.everything()
        if last in _SIZED or last == "tensor":  # of which a tensor by itself is copied on its device
            sizes = self._items(given) | (given if last != "tensor" else NOTHING)
            self._see(sizes, f'passes a tensor as a number to "{name}"', call.frame, call.site)

    def _builtin(self, name: str, call: Call) -> Values | None:
        given = call.everything()
        has_tensor = any(isinstance(value, Tensor) and not value.is_on_host for value in given)
        is_data = not has_tensor and any(map(_is_data_on_device, given))
        computed = given if name == "len" else given | self._items(given)
        kept: Values = frozenset(value for value in computed if isinstance(value, Differs))
        kept |= {Varies() for value in computed if isinstance(value, Varies)}
        kept |= {value.on_host() for value in computed if isinstance(value, Local)}
        if name == "print":
            self._shown(call, "prints a tensor")
        elif name in _CONVERSIONS | {"range"} and (
            has_tensor or is_data or (name in {"float", "int"} and _is_parameter(given))
        ):
            self._wait(f'calls "{name}()" on a tensor', call.frame, call.site, is_of_array=is_data)
        elif name in {"max", "min", "sorted"} and "key" not in call.named and self._has_device_tensors(call):
            self._wait(f'calls "{name}()" on tensors, which compares them', call.frame, call.site)
        elif name in {"any", "all"} and self._has_device_tensors(call):
            self._wait(f'calls "{name}()" on tensors, which tests whether they are true', call.frame, call.site)
        elif name in {"abs", "sum", "round", "pow"} and (has_tensor or self._has_device_tensors(call)):
            return frozenset({Tensor(), *(value.part() for value in computed if isinstance(value, Local))})
        if name in {"isinstance", "hasattr", "callable", "issubclass"}:
            return frozenset({Steady()})
        if name in _CONVERSIONS | {"max", "min", "abs", "len", "sum", "round", "any", "all", "range"}:
            return kept or UNKNOWN
        return None

    def _shown(self, call: Call, what: str) -> None:
        given = self._everything_in(call.everything())
        self._see(given, what, call.frame, call.site)

    def _see(self, values: Values, what: str, frame: Frame, site: Site) -> None:
        """See that the host reads values, if one of them is a tensor."""
        is_certain = any(isinstance(value, Tensor) and not value.is_on_host for value in values)
        if is_certain or any(map(_is_data_on_device, values)):
            self._wait(what, frame, site, is_of_array=not is_certain)

    def _items(self, values: Values) -> Values:
        """Return the items of containers among values."""
        return self.elements(frozenset(value for value in values if isinstance(value, Container)))

    def _everything_in(self, values: Values) -> Values:
        """Return values, the items of containers among them, and theirs."""
        items = self._items(values)
        return values | items | self._items(items) | self._items(self._items(items)) if items else values

    def _has_device_tensors(self, call: Call) -> bool:
        """Return whether a function compares tensors: its arguments, or the items of its only one."""
        given = call.everything()
        if any(isinstance(value, Container) and value.kind == "dict" for value in given):  # its keys are compared
            return False
        compared = given if len(call.arguments) > 1 else self._items(given)
        return any(isinstance(value, Tensor) and not value.is_on_host for value in compared)

    # What Python does by itself

    def tested(self, test: Values, frame: Frame, site: Site) -> None:
        """See that the truth of a tensor is tested."""
        self._see(test, _TEST, frame, site)

    def shown(self, values: Values, frame: Frame, site: Site) -> None:
        """See that a tensor is put into a text."""
        self._see(values, "formats a tensor", frame, site)

    def counted(self, values: Values, how: str, frame: Frame, site: Site) -> None:
        """See that a tensor is used as a number."""
        self._see(values, how, frame, site)

    # The rule

    def _is_reset(self, needs: Assigned) -> bool:
        return any(
            reset == name and (owner is None or owner in kind.ancestry or kind in owner.ancestry)
            for kind, name in needs
            for owner, reset in self._reset
        )

    def report(self, facts: Facts, modules: Sequence[Module]) -> None:
        """Report the waits of handlers of events that happen in every step, and of what a task does in every step."""
        seen: set[Site] = set()
        followed = {(definition.module, definition.number) for definition in self._run}
        self._reset.update((None, name) for name in _assigned_elsewhere(modules, followed))
        may_hold_arrays = any(wait.is_of_array for wait in self.waits) and _collates_arrays(modules)
        for wait in self.waits:
            entry = wait.entry
            is_called = entry.is_in_every_step or _is_called_in_every_step(entry, facts, wait)
            if not (wait.is_certain and is_called) or wait.site in seen or self._is_reset(wait.needs):
                continue
            if (wait.is_of_array and may_hold_arrays) or (wait.remedy == _READ and _is_of_outputs(entry)):
                continue
            seen.add(wait.site)
            events = " and ".join(sorted(map(str, entry.events)))
            subject = f'Handler "{entry.name}" of {events}' if entry.events else f'"{entry.name}"'
            facts.report(
                "d9d-host-sync",
                f"{subject} {wait.what} in every step, so each step waits for the device: "
                f"{_TESTED if wait.what == _TEST else wait.remedy}",
                wait.site,
            )


def _is_called_in_every_step(entry: Entry, facts: Facts, wait: Wait) -> bool:
    """Return whether a loop calls a method of a task in every step, or a task that of a metric."""
    if entry.kind != "method" or entry.owner is None:
        return False
    if entry.owner in facts.subscribers:
        return entry.name in _IN_EVERY_STEP or (entry.name in _READING_ALLOWED and wait.remedy != _READ)
    return entry.name in _OF_METRICS and is_metric(entry.owner)


def _is_of_outputs(entry: Entry) -> bool:
    """Return whether a handler is there to bring outputs to the host, as `process_outputs` is."""
    return bool(entry.events) and all(event.id == _OUTPUTS_READY for event in entry.events)


def _collates_arrays(modules: Sequence[Module]) -> bool:
    """Return whether batches may hold arrays of NumPy: those of a program do that makes them by itself."""
    summaries = [module.summary for module in modules if module.summary is not None]
    collates = any("collat" in str(each["path"]).lower() for summary in summaries for each in summary["functions"])
    imported = (name for summary in summaries for _, name, _ in summary["imports"])
    return collates and any(name.partition(".")[0] == "numpy" for name in imported)


def _assigned_elsewhere(modules: Sequence[Module], followed: Collection[tuple[str, int]]) -> Iterator[str]:
    """Yield the names of the attributes that functions assign which have not been followed."""
    for module in modules:
        for number, function in enumerate((module.summary or {}).get("functions", ())):
            if (module.key, number) not in followed and function["name"] not in _CONSTRUCTORS:
                yield from function["assigns"]


def _is_data_on_device(value: Value) -> bool:
    """Return whether something of a batch or of outputs is a tensor, as what has been done with it shows."""
    return isinstance(value, Local) and value.is_on_device


def is_metric(definition: ClassDefinition) -> bool:
    """Return whether objects of a class are metrics: it has what the protocol `Metric` asks for."""
    return all(definition.find(name) is not None for name in ("share", "compute", "reset"))


def _is_parameter(values: Values) -> bool:
    """Return whether something is read from a module: only a parameter or a buffer becomes a number."""
    return any(isinstance(value, Attribute) and is_module(value.owner) for value in values)


def _names_the_host(call: Call) -> bool:
    """Return whether `to` moves a tensor to the host."""
    given = [*call.arguments, call.named.get("device", NOTHING)]
    words = {value.value for values in given for value in values if isinstance(value, Constant)}
    return "cpu" in words
