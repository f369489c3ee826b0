"""The model: building its stages and running them."""

import abc
import copy
import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypeAlias

import torch
from torch import nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from d9d.core.dist_context import DistributedContext
from d9d.core.parallel import is_replicated_by_ddp
from d9d.core.pipeline import StagePosition
from d9d.core.settings import ConfigurationError
from d9d.core.stepper import Stepper
from d9d.core.tensor_tree import map_tensors
from d9d.loop.component.gradients import GradientSynchronizer
from d9d.loop.component.ranks import Ranks
from d9d.loop.config import Precision
from d9d.loop.control import (
    BaseTask,
    BuildForwardInputsContext,
    BuildForwardInputsResult,
    InitializeModelStageContext,
    InitializeModelStageResult,
    ModelProvider,
    ParallelizeModelStageContext,
)
from d9d.loop.control.provider import expect_result, wrong_result

_NULL = nullcontext()


class ForwardPrecision:
    """Makes the context of forward passes and losses.

    Args:
        precision: The number format: that of the weights, or `torch.autocast` to bfloat16.
        device: Where the model runs.
    """

    def __init__(self, precision: Precision, device: torch.device) -> None:
        self._is_autocast = precision == "bf16-autocast"
        self._device_type = device.type

    def context(self) -> AbstractContextManager[object]:
        """Make the context, to be entered once."""
        if self._is_autocast:
            return torch.autocast(self._device_type, dtype=torch.bfloat16)
        return _NULL


def without_gradients(modules: Sequence[nn.Module]) -> AbstractContextManager[object]:
    """Make the context in which no gradients are recorded.

    Args:
        modules: What runs in it. A sharded model gathers its weights into memory that must outlive the context, which
            tensors of `torch.inference_mode` do not.

    Returns:
        The context.
    """
    is_sharded = any(isinstance(module, FSDPModule) for stage in modules for module in stage.modules())
    return torch.no_grad() if is_sharded else torch.inference_mode()


class ModelInputs:
    """Has the task choose what of a micro-batch the model receives.

    Args:
        task: Chooses.
        stepper: Knows the steps.
    """

    def __init__(self, task: BaseTask, stepper: Stepper) -> None:
        self._task = task
        self._stepper = stepper

    def build(self, batch: Any) -> BuildForwardInputsResult:
        """Build the inputs for one micro-batch.

        Args:
            batch: The micro-batch, on the device.

        Returns:
            The inputs.
        """
        result: object = self._task.build_forward_inputs(BuildForwardInputsContext(batch=batch, stepper=self._stepper))
        if not isinstance(result, BuildForwardInputsResult):
            raise wrong_result(result, BuildForwardInputsResult, self._task.build_forward_inputs)
        return result


Shapes: TypeAlias = tuple[tuple[tuple[int, ...], torch.dtype], ...]
"""The shape and the number format of each of several tensors."""

_META = torch.device("meta")


class StageOutline:
    """A stage without its weights, which tells what the stage returns for inputs of some shapes.

    The stage itself would count what it sees, and speak with other processes, when it is asked.

    Args:
        module: The stage, before it is parallelised.
    """

    def __init__(self, module: nn.Module) -> None:
        # What copying finds among the known it takes as it is, so that no weight is held twice.
        known: dict[int, Any] = {
            **{id(parameter): _parameter_on_meta(parameter) for parameter in module.parameters()},
            **{id(buffer): _on_meta(buffer) for buffer in module.buffers()},
        }
        self._module = copy.deepcopy(module, known).eval()

    def outputs(self, activations: Shapes, keywords: Mapping[str, Any]) -> Shapes:
        """Return the shapes of what the stage returns.

        Args:
            activations: The shapes of its positional arguments.
            keywords: Its keyword arguments.

        Returns:
            The shapes of its outputs.

        Raises:
            TypeError: If it returns something else than a tensor, or several.
        """
        arguments = [torch.empty(shape, dtype=dtype, device=_META) for shape, dtype in activations]
        with torch.no_grad():
            returned = self._module(*arguments, **map_tensors(dict(keywords), _on_meta))
        return shapes_of(as_tuple(returned))


def as_tuple(outputs: Any) -> tuple[torch.Tensor, ...]:
    """Return what a stage has returned as a tuple.

    Args:
        outputs: A tensor, or several in a tuple or a list.

    Returns:
        The tensors.

    Raises:
        TypeError: If there is anything else.
    """
    tensors = tuple(outputs) if isinstance(outputs, tuple | list) else (outputs,)
    odd = next((tensor for tensor in tensors if not isinstance(tensor, torch.Tensor)), None)
    if odd is not None:
        raise TypeError(
            f"a stage of the pipeline returned a {type(odd).__qualname__}: a stage that is not the last one returns a "
            "tensor, or a tuple of tensors, which the next stage takes as its positional arguments"
        )
    return tensors


def shapes_of(tensors: tuple[torch.Tensor, ...] | list[torch.Tensor]) -> Shapes:
    """Return the shapes of tensors."""
    return tuple((tuple(tensor.shape), tensor.dtype) for tensor in tensors)


def _on_meta(tensor: torch.Tensor) -> torch.Tensor:
    return torch.empty_like(tensor, device=_META, requires_grad=False)


def _parameter_on_meta(parameter: nn.Parameter) -> nn.Parameter:
    return nn.Parameter(_on_meta(parameter), requires_grad=parameter.requires_grad)


@dataclasses.dataclass(frozen=True)
class ModelStage:
    """One stage of the model.

    Attributes:
        module: The stage, parallelised.
        position: Where it stands in the pipeline.
        outline: Tells the shapes of what it returns; `None` where there is no pipeline.
    """

    module: nn.Module
    position: StagePosition
    outline: StageOutline | None


def build_model_stage(provider: ModelProvider, dist_context: DistributedContext, position: StagePosition) -> ModelStage:
    """Build a stage, and have it parallelised; what it has on the meta device is left to be initialised.

    Args:
        provider: Brings the stage.
        dist_context: Says where it runs.
        position: Which stage to build.

    Returns:
        The stage.
    """
    result = provider.initialize_model_stage(InitializeModelStageContext(dist_context=dist_context, stage=position))
    module = expect_result(result, InitializeModelStageResult, provider.initialize_model_stage).model
    outline = StageOutline(module) if position.num_stages > 1 else None
    if not any(tensor.is_meta for tensor in (*module.parameters(), *module.buffers())):
        module.to(dist_context.device)
    provider.parallelize_model_stage(
        ParallelizeModelStageContext(dist_context=dist_context, model=module, stage=position)
    )
    return ModelStage(module, position, outline)


def require_own_names(stages: Sequence[ModelStage], ranks: Ranks) -> None:
    """Refuse two stages that name a weight alike.

    Args:
        stages: The stages of this process.
        ranks: All processes, which call this together.

    Raises:
        ConfigurationError: On all processes, if any two stages of the model do.
    """
    own = [(stage.position.index, [name for name, _ in stage.module.named_parameters()]) for stage in stages]
    owners: dict[str, int] = {}
    for index, names in (each for of_rank in ranks.gather(own) for each in of_rank):
        for name in names:
            owner = owners.setdefault(name, index)
            if owner != index:
                raise ConfigurationError(
                    f"stages {owner} and {index} of the pipeline have a weight of the name {name!r}: name the layers "
                    "of a stage by their index in the whole model, for instance in a torch.nn.ModuleDict, so that "
                    "weights are found again when the model is cut otherwise"
                )


_REMEDY = (
    "apply shard_data_parallel (d9d.core.parallel) or torch's fully_shard to the whole model in parallelize_model_stage"
)
_NUM_NAMED = 5
# Each process has two stages, whose backward passes come in halves.
_V_SCHEDULES = frozenset({"zbv", "dualpipev"})


def require_synchronized(
    modules: Iterable[nn.Module], dist_context: DistributedContext, *, schedule: str | None = None
) -> None:
    """Refuse a model whose gradients would not be added up over all processes that have samples or tokens of their own.

    Each process would train a model of its own, in silence. All processes call this, and all are told alike.

    Args:
        modules: The stages of the model on this process, ready to run.
        dist_context: Says which processes there are.
        schedule: The schedule of the pipeline, where there is one.

    Raises:
        ConfigurationError: If a trainable parameter is not spread over all those processes, on any of them; or if
            DistributedDataParallel is at work, which takes means where the loop needs sums.
    """
    modules = [*modules]
    own = _averaging(modules, schedule) or _unsynchronized(modules, dist_context)
    for rank, problem in enumerate(Ranks.of(dist_context).gather(own)):
        if problem is not None:
            raise ConfigurationError(problem if dist_context.world_size == 1 else f"on rank {rank}: {problem}")


def _averaging(modules: list[nn.Module], schedule: str | None) -> str | None:
    """Describe the first module that synchronises its gradients by means over the processes."""
    for name, module in (pair for stage in modules for pair in stage.named_modules()):
        composed = is_replicated_by_ddp(module)
        if isinstance(module, DistributedDataParallel) or composed:
            with_schedule = f", and with a V schedule such as {schedule} it fails" if schedule in _V_SCHEDULES else ""
            return (
                f"{name or 'the model itself'} ({type(module).__name__}) is wrapped by DistributedDataParallel"
                f"{' (by the older replicate)' if composed else ''}: it takes the mean of gradients over the "
                f"processes, and the loop, which weighs losses itself, needs their sum{with_schedule}. Set "
                f"data_parallel_replicate in the mesh, and {_REMEDY}: it holds copies of the model likewise"
            )
    return None


def _unsynchronized(modules: list[nn.Module], dist_context: DistributedContext) -> str | None:
    """Describe the trainable parameters of this process that are not spread over all that have other samples."""
    if dist_context.world_size == 1:
        return None
    mesh = dist_context.mesh_for("batch")["data_parallel", "context_parallel"].mesh
    if mesh.numel() == 1:
        return None
    needed = {*mesh.flatten().tolist()}
    stray = [
        name
        for stage in modules
        for name, parameter in stage.named_parameters()
        if parameter.requires_grad and not needed <= _processes_of(parameter)
    ]
    if not stray:
        return None
    named = ", ".join(stray[:_NUM_NAMED]) + (f" and {len(stray) - _NUM_NAMED} more" if len(stray) > _NUM_NAMED else "")
    return (
        f"{len(needed)} processes (data_parallel_replicate × data_parallel_shard × context_parallel) have samples or "
        f"tokens of their own, and the gradients of these trainable parameters are not added up over all of them: "
        f"{named}. Freeze them, or {_REMEDY}"
    )


def _processes_of(parameter: nn.Parameter) -> set[int]:
    return {*parameter.device_mesh.mesh.flatten().tolist()} if isinstance(parameter, DTensor) else set()


ComputeLoss: TypeAlias = Callable[[Any, Any], torch.Tensor]
"""Turns the outputs of the model, and the micro-batch, into its share of the loss of the step, a scalar."""

UseOutputs: TypeAlias = Callable[[int, Any, Any], None]
"""Takes the number of a micro-batch in the step, itself, and the outputs of the model."""


class ModelRunner(abc.ABC):
    """Runs the model over the micro-batches of a step."""

    @abc.abstractmethod
    def forward_backward(self, batches: Iterable[Any], compute_loss: ComputeLoss) -> None:
        """Run forward and backward passes, which leave gradients behind.

        Args:
            batches: The micro-batches of the step, each on the device by the time it is taken.
            compute_loss: Called where the outputs of the model are, once for each micro-batch.
        """

    @abc.abstractmethod
    def forward(self, batches: Iterable[Any], num_samples: Sequence[int], use_outputs: UseOutputs) -> None:
        """Run forward passes alone.

        Args:
            batches: The micro-batches of the step, each on the device by the time it is taken.
            num_samples: How many samples each of them has.
            use_outputs: Called where the outputs of the model are, once for each micro-batch.
        """


class WholeModelRunner(ModelRunner):
    """Runs a model that is not cut into stages, one micro-batch after the other.

    Args:
        model: The model.
        inputs: Chooses its inputs.
        precision: The number format of forward passes and losses.
        num_micro_batches: How many micro-batches a step of training has.
    """

    def __init__(
        self, model: nn.Module, inputs: ModelInputs, precision: ForwardPrecision, num_micro_batches: int
    ) -> None:
        self._model = model
        self._num_micro_batches = num_micro_batches
        self._inputs = inputs
        self._precision = precision
        self._synchronizer = GradientSynchronizer([model])

    def forward_backward(self, batches: Iterable[Any], compute_loss: ComputeLoss) -> None:  # noqa: D102 -- inherited
        for number, batch in enumerate(batches, start=1):
            self._synchronizer.start_micro_batch(is_last=number == self._num_micro_batches)
            with self._precision.context():
                loss = compute_loss(self._run(batch), batch)
            torch.autograd.backward(loss)

    def forward(  # noqa: D102 -- inherited
        self, batches: Iterable[Any], num_samples: Sequence[int], use_outputs: UseOutputs
    ) -> None:
        del num_samples
        for number, batch in enumerate(batches):
            with self._precision.context():
                outputs = self._run(batch)
            use_outputs(number, batch, outputs)
            del outputs  # or they would lie beside those of the next micro-batch

    def _run(self, batch: Any) -> Any:
        built = self._inputs.build(batch)
        return self._model(**built.inputs, **built.shared_inputs)
