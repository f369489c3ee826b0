"""The model: how its stages are built and checked, and how a model without a pipeline runs."""

import abc
import collections
import contextlib
import copy
import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import torch
from torch import nn
from torch._subclasses import FakeTensorMode
from torch.distributed.fsdp import CPUOffloadPolicy, FSDPModule
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from d9d.core.dist_context import DistributedContext
from d9d.core.parallel import is_replicated_by_ddp
from d9d.core.pipeline import SCHEDULES, ScheduleName, StagePosition
from d9d.core.settings import ConfigurationError
from d9d.core.stepper import Stepper
from d9d.loop.component.checkpoint.sharded_state import unwrapped_name
from d9d.loop.component.data import map_tensors
from d9d.loop.component.gradients import GradientSynchronizer
from d9d.loop.component.ranks import Ranks
from d9d.loop.config import LoopConfig
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

Shapes: TypeAlias = tuple[tuple[tuple[int, ...], torch.dtype], ...]
"""The shape and the dtype of each of several tensors."""

_META = torch.device("meta")


def shapes_of(tensors: Sequence[torch.Tensor]) -> Shapes:
    """Return the shapes and dtypes of tensors."""
    return tuple((tuple(tensor.shape), tensor.dtype) for tensor in tensors)


def activations_of(outputs: Any) -> tuple[torch.Tensor, ...]:
    """Return what a stage sends to the next one.

    Args:
        outputs: What the stage returned: a tensor, or a tuple or list of tensors.

    Returns:
        The tensors.

    Raises:
        TypeError: If the stage returned anything else.
    """
    tensors = tuple(outputs) if isinstance(outputs, tuple | list) else (outputs,)
    other = next((tensor for tensor in tensors if not isinstance(tensor, torch.Tensor)), None)
    if other is not None:
        raise TypeError(
            f"a stage of the pipeline returned a {type(other).__qualname__}: every stage except the last must return a "
            "tensor or a tuple of tensors, which the next stage receives as positional arguments"
        )
    return tensors


class StageOutline:
    """A copy of a stage on the meta device, which computes the shapes of the stage's outputs.

    Running the stage itself for that would change its buffers, and communicate with other processes.

    Args:
        module: The stage, before it is parallelised.
    """

    def __init__(self, module: nn.Module) -> None:
        # `deepcopy` uses the entries of its memo instead of copying, so the weights are never in memory twice.
        memo: dict[int, Any] = {
            **{id(parameter): _parameter_on_meta(parameter) for parameter in module.parameters()},
            **{id(buffer): _on_meta(buffer) for buffer in module.buffers()},
        }
        self._module = copy.deepcopy(module, memo).eval()

    def outputs(
        self, activations: Shapes, keywords: Mapping[str, Any], autocast: torch.autocast | None = None
    ) -> Shapes:
        """Return the shapes of what the stage returns.

        Args:
            activations: The shapes of its positional arguments.
            keywords: Its keyword arguments.
            autocast: The context in which the stage will run, if it changes dtypes.

        Returns:
            The shapes of its outputs.

        Raises:
            TypeError: If it returns anything but a tensor or several tensors.
        """
        contexts: list[contextlib.AbstractContextManager[object]] = [torch.no_grad()]
        device = _META
        if autocast is not None:
            # Autocast ignores the meta device. Fake tensors have the device of the stage and, like meta tensors, no
            # memory.
            device = torch.device(autocast.device)
            contexts += [FakeTensorMode(allow_non_fake_inputs=True), autocast]
        with contextlib.ExitStack() as stack:
            for context in contexts:
                stack.enter_context(context)
            arguments = tuple(torch.empty(shape, dtype=dtype, device=device) for shape, dtype in activations)
            own = (*self._module.named_parameters(), *self._module.named_buffers())
            tensors = {name: _without_values(tensor, device) for name, tensor in own}
            others = map_tensors(dict(keywords), lambda tensor: _without_values(tensor, device))
            return shapes_of(activations_of(torch.func.functional_call(self._module, tensors, arguments, others)))


def _without_values(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    return torch.empty_like(tensor, device=device, requires_grad=False)


def _on_meta(tensor: torch.Tensor) -> torch.Tensor:
    return _without_values(tensor, _META)


def _parameter_on_meta(parameter: nn.Parameter) -> nn.Parameter:
    return nn.Parameter(_on_meta(parameter), requires_grad=parameter.requires_grad)


@dataclasses.dataclass(frozen=True)
class ModelStage:
    """A stage of the model.

    Attributes:
        module: The stage, parallelised.
        position: Its position in the pipeline.
        outline: Computes the shapes of its outputs; `None` without a pipeline.
        tied: The weights that it shares with other stages, as the provider declares them.
    """

    module: nn.Module
    position: StagePosition
    outline: StageOutline | None
    tied: Mapping[str, str] = dataclasses.field(default_factory=dict)


def build_model_stage(provider: ModelProvider, dist_context: DistributedContext, position: StagePosition) -> ModelStage:
    """Build and parallelise a stage. Parameters on the meta device are left for `initialize_weights`.

    Args:
        provider: Builds the stage.
        dist_context: This process, its device and its mesh.
        position: Which stage to build.

    Returns:
        The stage.

    Raises:
        ConfigurationError: If FSDP keeps parameters of the stage on the host, or if the provider declares two weights
            of one stage as tied that are not, or unties weights when it parallelises the stage.
    """
    result = provider.initialize_model_stage(InitializeModelStageContext(dist_context=dist_context, stage=position))
    built = expect_result(result, InitializeModelStageResult, provider.initialize_model_stage)
    module, tied = built.model, _ties_of(built.model)
    declared: dict[str, str] = {}
    names = {unwrapped_name(name) for name, _ in module.named_parameters(remove_duplicate=False)}
    for name, other in built.tied_weights.items():
        if not {name, other} <= names:
            declared[name] = other
        elif tied.get(name, name) != tied.get(other, other):
            raise ConfigurationError(
                f"tied_weights ties {name!r} to {other!r}, but they are two parameters of one stage: assign one to the "
                "other, in initialize_model_stage"
            )
    outline = StageOutline(module) if position.num_stages > 1 else None
    if not any(tensor.is_meta for tensor in (*module.parameters(), *module.buffers())):
        module.to(dist_context.device)
    provider.parallelize_model_stage(
        ParallelizeModelStageContext(dist_context=dist_context, model=module, stage=position)
    )
    _refuse_offloading(module)
    left = _ties_of(module)
    if untied := [(name, other) for name, other in tied.items() if left.get(name) != other]:
        name, other = untied[0]
        raise ConfigurationError(
            f"parallelize_model_stage has untied {name!r} from {other!r}: each is a new parameter now, and they would "
            "drift apart. Assign one to the other again when both are parallelised"
        )
    return ModelStage(module, position, outline, declared)


def _ties_of(module: nn.Module) -> dict[str, str]:
    """Return the further names of the parameters that a module shares, with their first names."""
    first: dict[nn.Parameter, str] = {}
    names = ((unwrapped_name(name), parameter) for name, parameter in module.named_parameters(remove_duplicate=False))
    return {name: first[parameter] for name, parameter in names if first.setdefault(parameter, name) != name}


def _refuse_offloading(module: nn.Module) -> None:
    for name, inner in module.named_modules():
        if isinstance(inner, FSDPModule):
            state = inner._get_fsdp_state()  # noqa: SLF001 -- no public attribute
            groups = getattr(state, "_fsdp_param_groups", None) or [state._fsdp_param_group]  # noqa: SLF001 -- torch < 2.13
            if any(group is not None and isinstance(group.offload_policy, CPUOffloadPolicy) for group in groups):
                raise ConfigurationError(
                    f"{name or 'the model itself'} is sharded with CPUOffloadPolicy, which the loops do not support: "
                    "the host would wait for the device in every step. Leave offload_policy out; to save memory of the "
                    "device, shard over more processes or checkpoint activations"
                )


def require_own_names(stages: Sequence[ModelStage], ranks: Ranks) -> None:
    """Check that no two stages use one name for a weight.

    Args:
        stages: The stages of this process.
        ranks: All processes; all of them call this.

    Raises:
        ConfigurationError: On all processes, if two stages of the model do.
    """
    own = [
        (stage.position.index, [name for name, _ in stage.module.named_parameters(remove_duplicate=False)])
        for stage in stages
    ]
    owners: dict[str, int] = {}
    for index, names in (each for of_rank in ranks.gather(own) for each in of_rank):
        for name in names:
            owner = owners.setdefault(name, index)
            if owner != index:
                raise ConfigurationError(
                    f"stages {owner} and {index} of the pipeline both have a weight named {name!r}: name the layers of "
                    "a stage by their index in the whole model, for example in a torch.nn.ModuleDict, so that a "
                    "checkpoint can be loaded into other stages. If the stages share the weight, give it another name "
                    "in one of them, and return tied_weights={that name: this name} from initialize_model_stage"
                )


_REMEDY = (
    "apply shard_data_parallel (d9d.core.parallel) or torch's fully_shard to the whole model in parallelize_model_stage"
)
_NUM_NAMED = 5


def require_synchronized(
    modules: Iterable[nn.Module], dist_context: DistributedContext, *, schedule: ScheduleName | None = None
) -> None:
    """Check that all gradients are summed over all processes that have their own samples or tokens.

    Otherwise each of these processes would silently train its own model.

    Args:
        modules: The parallelised stages of this process.
        dist_context: The processes; all of them call this.
        schedule: The schedule of the pipeline, if there is one.

    Raises:
        ConfigurationError: On all processes, if a trainable parameter of any of them is not distributed over all those
            processes, or if the model uses DistributedDataParallel, which averages gradients.
    """
    modules = [*modules]
    own = _find_averaged(modules, schedule) or _find_unsynchronized(modules, dist_context)
    for rank, problem in enumerate(Ranks.of(dist_context).gather(own)):
        if problem is not None:
            raise ConfigurationError(problem if dist_context.world_size == 1 else f"on rank {rank}: {problem}")


def _find_averaged(modules: list[nn.Module], schedule: ScheduleName | None) -> str | None:
    """Describe the first module that averages its gradients over the processes."""
    for name, module in (pair for stage in modules for pair in stage.named_modules()):
        is_composed = is_replicated_by_ddp(module)
        if not (is_composed or isinstance(module, DistributedDataParallel)):
            continue
        fails = schedule is not None and SCHEDULES[schedule].is_v_shaped
        return (
            f"{name or 'the model itself'} ({type(module).__name__}) is wrapped by DistributedDataParallel"
            f"{' (by the older replicate)' if is_composed else ''}, which averages gradients over the processes. The "
            f"loop weights losses itself and needs the sum{f'; besides, DDP fails with {schedule}' if fails else ''}. "
            f"Set data_parallel_replicate in the mesh, and {_REMEDY}, which replicates the model too"
        )
    return None


def _find_unsynchronized(modules: list[nn.Module], dist_context: DistributedContext) -> str | None:
    """Describe the trainable parameters of this process that are not distributed over all with other samples."""
    if dist_context.world_size == 1:
        return None
    mesh = dist_context.mesh_for("batch")["data_parallel", "context_parallel"].mesh
    if mesh.numel() == 1:
        return None
    needed = {*mesh.flatten().tolist()}
    found = [
        name
        for stage in modules
        for name, parameter in stage.named_parameters()
        if parameter.requires_grad and not needed <= _processes_of(parameter)
    ]
    if not found:
        return None
    named = ", ".join(found[:_NUM_NAMED]) + (f" and {len(found) - _NUM_NAMED} more" if len(found) > _NUM_NAMED else "")
    return (
        f"{len(needed)} processes (data_parallel_replicate × data_parallel_shard × context_parallel) have their own "
        f"samples or tokens, but the gradients of these trainable parameters are not summed over all of them: {named}. "
        f"Freeze them, or {_REMEDY}"
    )


def _processes_of(parameter: nn.Parameter) -> set[int]:
    return {*parameter.device_mesh.mesh.flatten().tolist()} if isinstance(parameter, DTensor) else set()


@contextlib.contextmanager
def evaluation_mode(modules: Sequence[nn.Module]) -> Iterator[None]:
    """Make a context in which modules are in evaluation mode; afterwards each has the mode that it had before.

    Args:
        modules: The modules, with all that they contain.
    """
    modes = [(module, module.training) for outer in modules for module in outer.modules()]
    try:
        for module in modules:
            module.eval()
        yield
    finally:
        # `train` would set the modes of all inner modules alike, and users override it.
        for module, mode in modes:
            module.training = mode
            if isinstance(module, FSDPModule):
                # Without a backward pass FSDP keeps some weights gathered, and code would see plain tensors.
                module.reshard()


def without_gradients(modules: Sequence[nn.Module]) -> contextlib.AbstractContextManager[object]:
    """Make a context in which no gradients are recorded.

    Args:
        modules: The modules that run in it. FSDP keeps the memory of gathered weights for later use, which the tensors
            of `torch.inference_mode` do not allow, so sharded models run under `torch.no_grad`.

    Returns:
        The context.
    """
    is_sharded = any(isinstance(module, FSDPModule) for stage in modules for module in stage.modules())
    return torch.no_grad() if is_sharded else torch.inference_mode()


def autocast_of(config: LoopConfig, device: torch.device) -> Callable[[], torch.autocast] | None:
    """Return what makes the context of forward passes.

    Args:
        config: Holds the precision.
        device: Where the model runs.

    Returns:
        A function that makes the context; `None` if the precision needs none.
    """
    if config.precision == "bf16-autocast":
        return functools.partial(torch.autocast, device.type, dtype=torch.bfloat16)
    return None


_NO_CONTEXT = contextlib.nullcontext()
"""One for all steps: making one takes longer than entering it."""


def _no_context() -> contextlib.AbstractContextManager[None]:
    return _NO_CONTEXT


class ModuleModes:
    """Notices changes of the modes of modules, training or evaluation, between two steps, and what makes them.

    Args:
        stages: The stages of the model that this process holds.
    """

    def __init__(self, stages: Iterable[nn.Module]) -> None:
        named = [pair for stage in stages for pair in stage.named_modules()]
        self._names = [name or type(module).__name__ for name, module in named]
        self._modules = [module for _, module in named]
        self._modes = self._first = [module.training for module in self._modules]

    def take_changes(self) -> list[str]:
        """Return the names of the modules whose mode has changed since the last call."""
        modes = [module.training for module in self._modules]
        if modes == self._modes:
            return []
        before, self._modes = self._modes, modes
        return [name for name, old, new in zip(self._names, before, modes, strict=True) if old != new]

    @contextlib.contextmanager
    def watch(self, found: Callable[[], None]) -> Iterator[None]:
        """Make a context that notices if its block switches modules and does not give their modes back.

        What has switched a model once does not change it a second time. So a module counts that the block sets once, to
        another mode than in the first step, even if it is in that mode already. A block that gives modes back sets them
        twice.

        Args:
            found: Called at the end of the block if so.
        """
        counts: collections.Counter[nn.Module] = collections.Counter()
        set_attribute = nn.Module.__setattr__

        def note(module: nn.Module, name: str, value: Any) -> None:
            counts[module] += name == "training"
            set_attribute(module, name, value)

        # `eval` sets the mode of each module, and so do those that give modes back.
        nn.Module.__setattr__ = note  # type: ignore[assignment,method-assign]
        try:
            yield
        finally:
            nn.Module.__setattr__ = set_attribute  # type: ignore[method-assign]
        modes = zip(self._modules, self._first, strict=True)
        if any(counts[module] == 1 and module.training != first for module, first in modes):
            found()


ComputeLoss: TypeAlias = Callable[[int, Any, Any], torch.Tensor]
"""Returns the weighted loss of a micro-batch, a scalar: called with the number of the micro-batch, the micro-batch, and
the outputs of the model."""

UseOutputs: TypeAlias = Callable[[int, Any, Any], None]
"""Processes the outputs of the model: called with the number of the micro-batch, the micro-batch, and the outputs."""


class ModelRunner(abc.ABC):
    """Runs the model on the micro-batches of a step.

    Args:
        stages: The stages of this process.
        task: Builds the inputs of the model.
        stepper: Counts the steps.
        config: Holds the precision, the number of micro-batches, and the schedule.
        dist_context: This process, its device and its mesh.
    """

    def __init__(
        self,
        stages: Sequence[ModelStage],
        *,
        task: BaseTask,
        stepper: Stepper,
        config: LoopConfig,
        dist_context: DistributedContext,
    ) -> None:
        self._stages = stages
        self._task = task
        self._stepper = stepper
        self._autocast: Callable[[], contextlib.AbstractContextManager[object]] = (
            autocast_of(config, dist_context.device) or _no_context
        )

    @abc.abstractmethod
    def forward_backward(self, batches: Iterable[Any], compute_loss: ComputeLoss) -> None:
        """Run forward and backward passes, which accumulate gradients.

        Args:
            batches: The micro-batches of the step; each is moved to the device when it is requested.
            compute_loss: Called once for each micro-batch, in the process that has the outputs of the model.
        """

    @abc.abstractmethod
    def forward(
        self,
        batches: Iterable[Any],
        num_samples: Sequence[int],
        use_outputs: UseOutputs,
        *,
        task: BaseTask | None = None,
        is_within_training: bool = False,
    ) -> None:
        """Run forward passes only.

        Args:
            batches: The micro-batches of the step; each is moved to the device when it is requested.
            num_samples: How many samples each of them has.
            use_outputs: Called once for each micro-batch, in the process that has the outputs of the model.
            task: Builds the inputs of the model; by default the task of the run.
            is_within_training: Whether training continues after this. Then the model is compiled for no other number
                of samples than training has: a compiled model that meets a second one is compiled for any number.
        """

    def _build_inputs(self, batch: Any, task: BaseTask | None = None) -> BuildForwardInputsResult:
        """Have a task build the inputs of the model for a micro-batch on the device."""
        build = (task or self._task).build_forward_inputs
        result: object = build(BuildForwardInputsContext(batch=batch, stepper=self._stepper))
        if not isinstance(result, BuildForwardInputsResult):
            raise wrong_result(result, BuildForwardInputsResult, build)
        return result


class WholeModelRunner(ModelRunner):
    """Runs a model without a pipeline, one micro-batch at a time."""

    def __init__(
        self,
        stages: Sequence[ModelStage],
        *,
        task: BaseTask,
        stepper: Stepper,
        config: LoopConfig,
        dist_context: DistributedContext,
    ) -> None:
        super().__init__(stages, task=task, stepper=stepper, config=config, dist_context=dist_context)
        self._model = stages[0].module
        self._num_micro_batches = config.num_micro_batches
        self._samples_per_micro_batch = config.samples_per_micro_batch
        self._synchronizer = GradientSynchronizer([self._model])

    def forward_backward(self, batches: Iterable[Any], compute_loss: ComputeLoss) -> None:  # noqa: D102 -- inherited
        for number, batch in enumerate(batches):
            self._synchronizer.start_micro_batch(is_last=number == self._num_micro_batches - 1)
            with self._autocast():
                loss = compute_loss(number, batch, self._run(batch))
            torch.autograd.backward(loss)

    def forward(  # noqa: D102 -- inherited
        self,
        batches: Iterable[Any],
        num_samples: Sequence[int],
        use_outputs: UseOutputs,
        *,
        task: BaseTask | None = None,
        is_within_training: bool = False,
    ) -> None:
        for number, batch in enumerate(batches):
            is_eager = is_within_training and num_samples[number] != self._samples_per_micro_batch
            with self._autocast(), torch.compiler.set_stance("force_eager") if is_eager else _NO_CONTEXT:
                outputs = self._run(batch, task)
            use_outputs(number, batch, outputs)
            del outputs  # or they would stay in memory during the next forward pass

    def _run(self, batch: Any, task: BaseTask | None = None) -> Any:
        built = self._build_inputs(batch, task)
        return self._model(**built.inputs, **built.shared_inputs)
