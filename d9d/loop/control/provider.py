"""The interfaces through which users provide the model, the data, the optimizer and the learning rate schedule."""

import abc
import dataclasses
import functools
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol, TypeAlias, TypeVar, cast

import torch
from torch import nn
from torch.distributed.tensor import DTensor
from torch.utils.data import DataLoader, Dataset

from d9d.core.dist_context import DistributedContext
from d9d.core.loop_control import LoopControl
from d9d.core.parallel import shard_data_parallel
from d9d.core.pipeline import StagePosition
from d9d.core.protocol import LRSchedulerProtocol, OptimizerProtocol
from d9d.core.settings import ConfigurationError
from d9d.loop.event import EventBus
from d9d.loop.event.handler import signature_of

TResult = TypeVar("TResult")


def expect_result(result: object, kind: type[TResult], source: Callable[..., Any]) -> TResult:
    """Check the type of what user code returned.

    Args:
        result: What was returned.
        kind: The type that it must have.
        source: The method or the provider that returned it.

    Returns:
        The result.

    Raises:
        TypeError: If the result has another type.
    """
    if isinstance(result, kind):
        return result
    raise wrong_result(result, kind, source)


def expect_methods(result: TResult, names: Sequence[str], argument: str, *, remedy: str) -> TResult:
    """Check that what a provider returned has the methods that the loop calls.

    Args:
        result: What was returned.
        names: The names of the methods.
        argument: The argument of the configurator that the provider was.
        remedy: What to return.

    Returns:
        The result.

    Raises:
        TypeError: If one is missing.
    """
    missing = [name for name in names if not hasattr(result, name)]
    if missing:
        without = "" if result is None else f", which has no {' and no '.join(missing)}"
        raise TypeError(f"{argument} returned {describe_kind(result)}{without}: {remedy}")
    return result


def wrong_result(result: object, kind: type, source: Callable[..., Any]) -> TypeError:
    """Return the error for user code that returned something of another type than it must.

    Args:
        result: What was returned.
        kind: The type that it must have.
        source: The method or the provider that returned it.

    Returns:
        The error, for the caller to raise.
    """
    name = kind.__qualname__
    return TypeError(f"{_name_of(source)} returned {describe_kind(result)}: return {_article(name)} {name}(...)")


def describe_kind(value: object) -> str:
    """Return what something is, for an error about it.

    Args:
        value: What was given.

    Returns:
        `None`, the name of a class, or the class of an object, with an article.
    """
    if value is None:
        return "None"
    if isinstance(value, type):
        return f"the class {value.__qualname__}"
    name = type(value).__qualname__
    return f"{_article(name)} {name}"


def _article(name: str) -> str:
    return "an" if name[0] in "AEIOUaeiou" else "a"


def _name_of(source: Callable[..., Any]) -> str:
    return getattr(source, "__qualname__", type(source).__qualname__)


@dataclasses.dataclass(kw_only=True, frozen=True, slots=True)
class RegisterModelEventsContext:
    """Context of `ModelProvider.register_events`.

    Attributes:
        event_bus: The bus of the loop that is being configured.
        dist_context: The processes of the job and the device of this one.
        control: Asks the loop to stop, save or evaluate.
    """

    event_bus: EventBus
    dist_context: DistributedContext
    control: LoopControl


@dataclasses.dataclass(kw_only=True, frozen=True, slots=True)
class InitializeModelStageContext:
    """Context of `ModelProvider.initialize_model_stage`.

    Attributes:
        dist_context: This process, its device and its mesh.
        stage: Which part of the model to build. Without a pipeline it is the whole model.
    """

    dist_context: DistributedContext
    stage: StagePosition = dataclasses.field(default_factory=StagePosition)


@dataclasses.dataclass(kw_only=True, frozen=True, slots=True)
class InitializeModelStageResult:
    """A stage of a model.

    Attributes:
        model: The stage. The loop initialises parameters and buffers on the `meta` device after the stage has been
            parallelised, by calling `ModelProvider.initialize_module` for each module, so a process never holds more
            than its own shard; those that are loaded from files are not initialised. Parameters on any other device
            keep their values and are moved to the loop's device. Parameter names must be unique across all stages of
            the model.
        tied_weights: The weights that stages of a pipeline share: the name of each, and the name of the weight in
            another stage that it equals, such as `{"lm_head.weight": "model.embed_tokens.weight"}`. All stages return
            the same. Each has a parameter of its own, which starts with the value of the other one and gets the sum of
            both gradients. Checkpoints and exports hold the weight once. Weights that one stage shares with itself need
            no mention.
    """

    model: nn.Module
    tied_weights: Mapping[str, str] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(kw_only=True, frozen=True, slots=True)
class ParallelizeModelStageContext:
    """Context of `ModelProvider.parallelize_model_stage`.

    Attributes:
        dist_context: This process, its device and its mesh.
        model: The stage, on that device or on `meta`.
        stage: Which part of the model it is.
    """

    dist_context: DistributedContext
    model: nn.Module
    stage: StagePosition = dataclasses.field(default_factory=StagePosition)


@dataclasses.dataclass(kw_only=True, frozen=True, slots=True)
class InitializeModuleContext:
    """Context of `ModelProvider.initialize_module`.

    Attributes:
        name: The name of the module in the model.
        module: The module. Its own parameters and buffers are in memory, in full and on the loop's device. Those of
            other modules may be on the `meta` device.
    """

    name: str
    module: nn.Module


class ModelProvider(abc.ABC):
    """Builds and parallelises the model of a loop, and may subscribe to the loop's events."""

    @abc.abstractmethod
    def initialize_model_stage(self, ctx: InitializeModelStageContext) -> InitializeModelStageResult:
        """Build the stage of the model that the context names.

        The last stage returns the outputs of the model. Every other stage returns a tensor or a tuple of tensors, which
        the next stage receives as positional arguments in place of the model's inputs.

        The random number generators are already seeded from the configuration, identically in all processes. A model
        built under `torch.device("meta")` gets the same initial weights on every mesh.

        Args:
            ctx: Which stage to build, and where it will run.

        Returns:
            The stage.
        """

    def parallelize_model_stage(self, ctx: ParallelizeModelStageContext) -> None:
        """Shard, replicate or compile the stage, in place.

        Args:
            ctx: The stage, and where it runs.
        """

    def initialize_module(self, ctx: InitializeModuleContext) -> bool:
        """Initialise the parameters and buffers that a module itself had on the `meta` device.

        Called with the random number generators seeded for this module, so that the values are the same on any mesh;
        not called for modules whose parameters and buffers are all loaded from files. Override it for modules without
        `reset_parameters`, as those of transformers: `model._init_weights(ctx.module)`.

        Args:
            ctx: The module.

        Returns:
            Whether the module has been initialised; by default only if it has `reset_parameters`, which is called.
        """
        reset_parameters = getattr(ctx.module, "reset_parameters", None)
        if not callable(reset_parameters):
            return False
        reset_parameters()
        return True

    def register_events(self, ctx: RegisterModelEventsContext) -> None:
        """Subscribe to the loop's events. Called once, before the first event.

        Args:
            ctx: Holds the bus to subscribe on.
        """

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint keeps of the provider: tensors, numbers, strings, and lists and dicts of them."""
        return {}

    def load_state_dict(self, state_dict: dict[str, Any], /) -> None:
        """Restore the state that `state_dict` returned. The model has been built by then.

        Args:
            state_dict: The state from the checkpoint.
        """


ModelSource: TypeAlias = (
    ModelProvider | nn.Module | Callable[[InitializeModelStageContext], nn.Module] | Callable[[], nn.Module]
)
"""What a configurator accepts as a model. A `ModelProvider` runs on any mesh. A function that returns the model is
enough on one process and for data parallelism, and the model itself on one process."""


def as_model_provider(source: ModelSource) -> ModelProvider:
    """Turn anything that a configurator accepts as a model into a provider.

    Args:
        source: A provider, which is returned unchanged; a model; or a function or class that returns one. A function
            with a required argument is called with the context, any other without arguments. It is called after the
            random number generators are seeded, so its initial weights depend on the seed of the configuration; those
            of a ready model do not.

    Returns:
        The provider. That of a function shards the model if several processes have different samples, and refuses all
        other dimensions of a mesh. That of a model refuses more than one process.

    Raises:
        TypeError: If `source` is none of these.
    """
    if isinstance(source, ModelProvider):
        return source
    if isinstance(source, nn.Module):
        return _PlainModelProvider(lambda _: source, f"a ready {type(source).__qualname__}", is_ready=True)
    if not callable(source):
        raise TypeError(
            f"model_provider is {describe_kind(source)}: pass a torch.nn.Module, a function that returns one, or "
            "a ModelProvider"
        )
    name = _name_of(source)
    if isinstance(source, type) and not issubclass(source, nn.Module):
        raise TypeError(f"model_provider is the class {name}: pass an instance of it, {name}(...)")
    build = cast("Callable[..., nn.Module]", source)
    signature = signature_of(build)
    if _accepts(signature):
        return _PlainModelProvider(lambda _: build(), name)
    if isinstance(source, type) or not _accepts(signature, None):
        raise TypeError(
            f"model_provider is {name}, which requires the arguments {signature}: pass a function that builds the "
            f"model, such as `lambda: {name}(...)`; it may take one argument, an InitializeModelStageContext"
        )
    return _PlainModelProvider(build, name)


def require_one_argument(name: str, source: Callable[..., Any], argument: str) -> None:
    """Refuse a provider that cannot be called with its context.

    Args:
        name: The argument of the configurator.
        source: The provider.
        argument: Its context, with an article.

    Raises:
        TypeError: If it cannot.
    """
    try:
        signature = signature_of(source)
    except ValueError:  # some built-in callables have none
        return
    if not _accepts(signature, None):
        raise TypeError(
            f"{name} is {_name_of(source)}, whose signature is {signature}: it is called with one argument, {argument}"
        )


def require_optimizer_provider(source: object) -> None:
    """Refuse what cannot build an optimizer.

    Args:
        source: The argument `optimizer_provider` of a configurator.

    Raises:
        TypeError: If it is an optimizer, a class or a partial of one, or not callable with one argument.
    """
    name = type(source).__qualname__
    if isinstance(source, torch.optim.Optimizer):
        raise TypeError(
            f"optimizer_provider is a ready {name}, and the loop builds the optimizer when the model is on its device: "
            f"pass OptimizerBuilder(torch.optim.{name}, lr=...), or a function that takes an "
            "InitializeOptimizerContext and returns the optimizer"
        )
    found, made = _class_of(source)
    if made is not None and issubclass(made, torch.optim.Optimizer):
        raise TypeError(f"optimizer_provider is {found}: pass OptimizerBuilder({made.__qualname__}, lr=...)")
    if isinstance(source, type) and hasattr(source, "zero_grad"):
        return  # an optimizer that builds itself from the context
    _require_provider("optimizer_provider", source, "an InitializeOptimizerContext")


def require_lr_scheduler_provider(source: object) -> None:
    """Refuse what cannot build a learning rate scheduler.

    Args:
        source: The argument `lr_scheduler_provider` of a configurator.

    Raises:
        TypeError: If it is a scheduler, a class or a partial of one, or not callable with one argument.
    """
    if isinstance(source, torch.optim.lr_scheduler.LRScheduler):
        raise TypeError(
            f"lr_scheduler_provider is a ready {type(source).__qualname__}, and the loop builds the optimizer: pass an "
            "LRSchedule such as LRSchedule.cosine(...), or a function that takes an InitializeLRSchedulerContext and "
            "returns a scheduler for ctx.torch_optimizer"
        )
    found, made = _class_of(source)
    if made is not None and issubclass(made, torch.optim.lr_scheduler.LRScheduler):
        raise TypeError(
            f"lr_scheduler_provider is {found}: pass a function, such as "
            f"`lambda ctx: {made.__qualname__}(ctx.torch_optimizer, ...)`"
        )
    _require_provider("lr_scheduler_provider", source, "an InitializeLRSchedulerContext")


def _class_of(source: object) -> tuple[str, type | None]:
    """Return the class that a class or a `functools.partial` makes objects of, and how to say so."""
    is_partial = isinstance(source, functools.partial)
    made: object = source.func if isinstance(source, functools.partial) else source
    if not isinstance(made, type):
        return "", None
    return f"{'a partial of ' if is_partial else ''}the class {made.__qualname__}", made


def _require_provider(name: str, source: object, argument: str) -> None:
    if isinstance(source, type):
        raise TypeError(
            f"{name} is the class {source.__qualname__}: pass an instance of it, {source.__qualname__}(...)"
        )
    if isinstance(source, nn.Module) or not callable(source):
        raise TypeError(f"{name} is {describe_kind(source)}: pass a function that takes {argument}")
    require_one_argument(name, source, argument)


def require_instance(name: str, value: object, kind: type, *, remedy: str) -> None:
    """Refuse an argument of another kind.

    Args:
        name: The argument of a configurator.
        value: What was given.
        kind: What it must be.
        remedy: What to do about anything else than the class itself.

    Raises:
        TypeError: If it is anything else.
    """
    if isinstance(value, type) and issubclass(value, kind):
        raise TypeError(f"{name} is the class {value.__qualname__}: pass an instance of it, {value.__qualname__}(...)")
    if not isinstance(value, kind):
        raise TypeError(f"{name} is {describe_kind(value)}: {remedy}")


def _accepts(signature: inspect.Signature, *arguments: object) -> bool:
    try:
        signature.bind(*arguments)
    except TypeError:
        return False
    return True


class _PlainModelProvider(ModelProvider):
    """Provides a whole model, which it shards for data parallelism.

    Args:
        build: Returns the model.
        description: Names the source of the model in errors.
        is_ready: Whether the model was built before the random number generators were seeded, so that its weights may
            differ between processes.
    """

    def __init__(
        self,
        build: Callable[[InitializeModelStageContext], nn.Module],
        description: str,
        *,
        is_ready: bool = False,
    ) -> None:
        self._build = build
        self._description = description
        self._is_ready = is_ready

    def initialize_model_stage(self, ctx: InitializeModelStageContext) -> InitializeModelStageResult:
        mesh = ctx.dist_context.mesh_parameters
        if self._is_ready and mesh.world_size > 1:
            raise ConfigurationError(
                f"model_provider is {self._description}, which works in a job of one process, and the mesh has "
                f"{mesh.world_size}: pass a function that builds the model, such as `lambda: Model(...)`, or a "
                "ModelProvider"
            )
        others = {name: size for name in _NEEDING_PROVIDERS if (size := getattr(mesh, name)) > 1}
        if others:
            raise ConfigurationError(
                f"model_provider is {self._description}, which works with data parallelism alone, and the mesh has "
                f"{', '.join(f'{name}={size}' for name, size in others.items())}: pass a ModelProvider that builds the "
                "model in initialize_model_stage and divides it in parallelize_model_stage"
            )
        model = self._build(ctx)
        if not isinstance(model, nn.Module):
            raise TypeError(
                f"model_provider is {self._description}, which returned {describe_kind(model)}: return a "
                "torch.nn.Module"
            )
        return InitializeModelStageResult(model=model)

    def parallelize_model_stage(self, ctx: ParallelizeModelStageContext) -> None:
        # A function that takes the context may have sharded the model itself.
        if not any(isinstance(parameter, DTensor) for parameter in ctx.model.parameters()):
            shard_data_parallel(ctx.model, ctx.dist_context)


# The dimensions of a mesh along which a model can be divided in more than one way.
_NEEDING_PROVIDERS = ("pipeline_parallel", "context_parallel", "tensor_parallel", "expert_parallel")


@dataclasses.dataclass(kw_only=True, frozen=True, slots=True)
class InitializeDatasetContext:
    """Context of a `DatasetProvider`.

    Attributes:
        dist_context: This process, its device and its mesh. Keep samples on the CPU: the loop moves batches to the
            device.
    """

    dist_context: DistributedContext


@dataclasses.dataclass(kw_only=True, frozen=True, slots=True)
class InitializeDatasetResult:
    """The data of a loop.

    Attributes:
        dataset: A dataset with `__getitem__` and `__len__`; for training it may also be an `IterableDataset`.
        collate: Merges a list of samples into a batch; by default torch's `default_collate`.

    Raises:
        TypeError: If the dataset is a `DataLoader`.
    """

    dataset: Dataset[Any]
    collate: Callable[[list[Any]], Any] | None = None

    def __post_init__(self) -> None:
        """Refuse what looks like a dataset."""
        _refuse_data_loader("dataset of InitializeDatasetResult", self.dataset)


class DatasetProvider(Protocol):
    """A function, or an object with a `__call__` method, that returns the data of a loop."""

    def __call__(self, ctx: InitializeDatasetContext, /) -> InitializeDatasetResult:
        """Build the dataset."""


def _refuse_data_loader(argument: str, source: object) -> None:
    if isinstance(source, DataLoader):
        raise TypeError(
            f"{argument} is a DataLoader: pass its dataset, since the loop reads the samples of each step itself. Its "
            "batch_size is global_batch_size of the configuration, its num_workers is data_loading.num_workers, and "
            "its collate_fn is collate of InitializeDatasetResult"
        )


DatasetSource: TypeAlias = DatasetProvider | Dataset[Any] | Sequence[Any]
"""What a configurator accepts as data: a `DatasetProvider`, a dataset, or a list of samples."""


def as_dataset_provider(source: DatasetSource) -> DatasetProvider:
    """Turn anything that a configurator accepts as data into a provider.

    Args:
        source: A provider, which is returned unchanged; a torch dataset; or any object with `__getitem__` and
            `__len__`, such as a list of samples or a dataset of Hugging Face.

    Returns:
        The provider.

    Raises:
        TypeError: If `source` is none of these.
    """
    if isinstance(source, type):
        name = source.__qualname__
        raise TypeError(f"dataset_provider is the class {name}: pass an instance of it, {name}(...)")
    _refuse_data_loader("dataset_provider", source)
    if isinstance(source, nn.Module):
        raise TypeError(
            f"dataset_provider is {describe_kind(source)}, which is a model: pass it as model_provider, and a "
            "dataset here"
        )
    if callable(source) and not isinstance(source, Dataset):
        require_one_argument("dataset_provider", source, "an InitializeDatasetContext")
        return source
    is_indexed = hasattr(source, "__getitem__") and hasattr(source, "__len__")
    if not isinstance(source, Dataset) and (not is_indexed or isinstance(source, str | bytes | Mapping)):
        raise TypeError(
            f"dataset_provider is {describe_kind(source)}: pass a torch.utils.data.Dataset, a list of samples, "
            "or a function that takes an InitializeDatasetContext and returns InitializeDatasetResult(dataset=...)"
        )
    result = InitializeDatasetResult(dataset=cast("Dataset[Any]", source))
    return lambda _: result


@dataclasses.dataclass(kw_only=True, frozen=True, slots=True)
class InitializeOptimizerContext:
    """Context of an `OptimizerProvider`.

    Attributes:
        dist_context: This process, its device and its mesh.
        modules: The model stages of this process, on its device and in pipeline order. Without a pipeline it is one
            module, the whole model.
    """

    dist_context: DistributedContext
    modules: list[nn.Module]

    @property
    def holds_whole_model(self) -> bool:
        """Whether this process has (its shards of) all parameters of the model; false in a pipeline."""
        return self.dist_context.mesh_parameters.pipeline_parallel == 1

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Iterate over the parameters of all stages, including frozen ones.

        Returns:
            Pairs of a name, as in `nn.Module.named_parameters`, and a parameter. A parameter that several modules share
            appears once, under its first name.

        Raises:
            ValueError: If two stages use one name for different parameters.
        """
        seen: dict[str, nn.Parameter] = {}
        identities: set[int] = set()
        for index, module in enumerate(self.modules):
            for name, parameter in module.named_parameters():
                if seen.setdefault(name, parameter) is not parameter:
                    raise ValueError(
                        f"modules[{index}] and an earlier stage of this process both have a parameter named {name!r}: "
                        "give each layer the name that it has in the whole model, for example by keeping the layers of "
                        "a stage in an nn.ModuleDict under their numbers"
                    )
                if id(parameter) not in identities:
                    identities.add(id(parameter))
                    yield name, parameter

    def parameters(self) -> Iterator[nn.Parameter]:
        """Iterate over the parameters of all stages, including frozen ones, each once.

        Returns:
            The parameters, in the order of `named_parameters`.

        Raises:
            ValueError: As `named_parameters`.
        """
        return (parameter for _, parameter in self.named_parameters())


class OptimizerProvider(Protocol):
    """A function, or an object with a `__call__` method, that returns the optimizer."""

    def __call__(self, ctx: InitializeOptimizerContext, /) -> OptimizerProtocol:
        """Build the optimizer."""


@dataclasses.dataclass(kw_only=True, frozen=True, slots=True)
class InitializeLRSchedulerContext:
    """Context of an `LRSchedulerProvider`.

    Attributes:
        dist_context: This process, its device and its mesh.
        optimizer: The optimizer whose learning rate the scheduler sets.
        total_steps: How many optimizer steps the run has.
    """

    dist_context: DistributedContext
    optimizer: OptimizerProtocol
    total_steps: int

    @property
    def torch_optimizer(self) -> torch.optim.Optimizer:
        """The optimizer, for the schedulers of `torch.optim.lr_scheduler`, which accept only a `torch.optim.Optimizer`.

        Raises:
            TypeError: If the optimizer does not derive from that class.
        """
        if not isinstance(self.optimizer, torch.optim.Optimizer):
            raise TypeError(
                f"the optimizer is a {type(self.optimizer).__qualname__}, and torch's schedulers accept only a "
                "torch.optim.Optimizer: derive it from that class, or pass an lr_scheduler_provider that returns your "
                "own scheduler for it"
            )
        return self.optimizer


class LRSchedulerProvider(Protocol):
    """A function, or an object with a `__call__` method, that returns the learning rate scheduler."""

    def __call__(self, ctx: InitializeLRSchedulerContext, /) -> LRSchedulerProtocol:
        """Build the scheduler."""
