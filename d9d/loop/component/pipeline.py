"""Running a model as a pipeline of stages, with the schedules of `torch.distributed.pipelining`."""

import logging
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, TypeAlias

import torch
from torch import distributed
from torch.distributed import pipelining
from torch.distributed.fsdp import FSDPModule
from torch.distributed.pipelining import PipelineStage

from d9d.core.dist_context import DistributedContext
from d9d.core.pipeline import SCHEDULES, ScheduleTraits
from d9d.core.settings import ConfigurationError
from d9d.core.stepper import Stepper
from d9d.loop.component.data import list_tensors, map_tensors
from d9d.loop.component.gradients import GradientSynchronizer
from d9d.loop.component.model import (
    ComputeLoss,
    ModelRunner,
    ModelStage,
    Shapes,
    UseOutputs,
    activations_of,
    autocast_of,
    shapes_of,
)
from d9d.loop.config import LoopConfig
from d9d.loop.control import BaseTask, BuildForwardInputsResult


class ActivationTracer:
    """Finds the shapes of all activations, which torch needs to make a schedule.

    Args:
        stages: The stages of this process.
        owners: For each stage of the pipeline, the position of the process that holds it.
        group: The processes of the pipeline.
        autocast: Makes the context in which the stages run, if it changes dtypes.
    """

    def __init__(
        self,
        stages: Sequence[ModelStage],
        owners: Sequence[int],
        group: distributed.ProcessGroup,
        autocast: Callable[[], torch.autocast] | None = None,
    ) -> None:
        self._stages = {stage.position.index: stage for stage in stages}
        self._owners = owners
        self._group = group
        self._autocast = autocast

    def trace(self, inputs: BuildForwardInputsResult) -> list[Shapes]:
        """Trace the shapes through all stages; all processes of the pipeline call this.

        Args:
            inputs: The inputs of the model for a micro-batch.

        Returns:
            The shapes that each stage except the last sends.

        Raises:
            RuntimeError: On all processes, if a stage cannot run on the meta device.
        """
        sent: list[Shapes] = []
        keywords: Mapping[str, Any] = {**inputs.inputs, **inputs.shared_inputs}
        for index, owner in enumerate(self._owners[:-1]):
            sent.append(self._trace_stage(index, owner, sent[-1] if sent else (), keywords))
            keywords = inputs.shared_inputs
        return sent

    def _trace_stage(self, index: int, owner: int, received: Shapes, keywords: Mapping[str, Any]) -> Shapes:
        """Return the shapes that a stage sends. Its owner computes them and broadcasts them."""
        message = [self._outputs(index, received, keywords)]
        source = distributed.get_global_rank(self._group, owner)
        distributed.broadcast_object_list(message, src=source, group=self._group)
        shapes, problem = message[0]
        if problem is not None:
            raise RuntimeError(
                f"stage {index} of the pipeline failed on the device 'meta', where it runs once to find the shapes of "
                f"its outputs: {problem}"
            )
        return shapes

    def _outputs(self, index: int, received: Shapes, keywords: Mapping[str, Any]) -> tuple[Shapes, str | None]:
        """Return the shapes that a stage of this process sends, and its error; nothing for stages of others."""
        stage = self._stages.get(index)
        if stage is None or stage.outline is None:
            return (), None
        try:
            autocast = None if self._autocast is None else self._autocast()
            shapes = stage.outline.outputs(received, keywords, autocast)
        except Exception as error:  # noqa: BLE001 -- raised on all processes
            return (), f"{type(error).__qualname__}: {error}"
        return shapes, None


class LoopStage(PipelineStage):
    """Runs one stage of the model.

    torch would split a batch into micro-batches itself. The loop already has micro-batches, of any structure, so it
    passes nothing to torch, and the stage looks up its inputs by the number of the micro-batch. See
    docs/decisions/0012-stages-look-their-inputs-up.md.

    Args:
        stage: The stage of the model.
        received: The shapes of what it receives from the previous stage.
        sent: The shapes of what it sends to the next stage.
        activation_dtype: The dtype in which floating-point activations are sent; `None` keeps that of the stages.
        is_training: Whether there will be backward passes.
        autocast: Makes the context of forward passes.
        device: Where it runs.
        group: The processes of this pipeline.
    """

    inputs: Sequence[BuildForwardInputsResult] = ()
    """The inputs of the model for each micro-batch of the step that runs."""

    use_outputs: Callable[[int, Any], None] | None = None
    """Called with the number of each micro-batch and what the last stage returned for it."""

    def __init__(
        self,
        stage: ModelStage,
        *,
        received: Shapes,
        sent: Shapes,
        activation_dtype: torch.dtype | None,
        is_training: bool,
        autocast: Callable[[], AbstractContextManager[object]],
        device: torch.device,
        group: distributed.ProcessGroup,
    ) -> None:
        # Without shapes torch would run the model and the loss once more to find them, and metrics would count twice.
        super().__init__(
            stage.module,
            stage.position.index,
            stage.position.num_stages,
            device,
            input_args=_examples(received, activation_dtype, is_training=is_training),
            output_args=_examples(sent, activation_dtype, is_training=is_training),
            group=group,
        )
        self._received = received
        self._sent = sent
        self._activation_dtype = activation_dtype
        self._autocast = autocast
        self._outputs: Any = None
        self._failure: Exception | None = None

    def forward_one_chunk(  # noqa: D102 -- inherited
        self,
        fwd_chunk_id: int,
        args: Any,
        kwargs: Any = None,
        save_forward_output: bool = True,  # noqa: FBT001, FBT002 -- as torch passes it
    ) -> Any:
        del args, kwargs, save_forward_output
        built = self.inputs[fwd_chunk_id]
        keywords = {**(built.inputs if self.is_first else {}), **built.shared_inputs}
        try:
            sent = super().forward_one_chunk(fwd_chunk_id, (), keywords, save_forward_output=False)
        except RuntimeError:
            # torch wraps every exception of the model; raise the original one.
            if self._failure is not None:
                raise self._failure from None
            raise
        if not self.is_last:
            return sent
        outputs, self._outputs = self._outputs, None
        if self.use_outputs is not None:
            self.use_outputs(fwd_chunk_id, outputs)
        return outputs

    def forward_maybe_with_nosync(self, *args: Any, **kwargs: Any) -> Any:  # noqa: D102 -- inherited
        own = [tensor.to(dtype) for tensor, (_, dtype) in zip(args, self._received, strict=True)]
        try:
            with self._autocast():
                outputs = super().forward_maybe_with_nosync(*own, **kwargs)  # type: ignore[no-untyped-call]
                if not self.is_last:
                    return self._prepare_to_send(activations_of(outputs))
                # torch keeps the returned value and expects a tuple of tensors.
                self._outputs = outputs
                return tuple(list_tensors(outputs))
        except Exception as error:
            self._failure = error
            raise

    def get_fwd_send_ops(self, fwd_chunk_id: int) -> list[distributed.P2POp]:
        """Send nothing after the last stage, whose outputs can have any type."""
        return [] if self.is_last else super().get_fwd_send_ops(fwd_chunk_id)

    def get_local_bwd_output(self, mb_index: int) -> Any:
        """Return nothing in a step without backward passes, where torch calls this too."""
        return super().get_local_bwd_output(mb_index) if self.has_backward else ()  # type: ignore[no-untyped-call]

    def set_local_bwd_input(self, next_stage_bwd_outputs: Any, mb_index: int) -> None:
        """Do nothing in a step without backward passes."""
        if self.has_backward:
            super().set_local_bwd_input(next_stage_bwd_outputs, mb_index)

    def perform_reduce_grad(self, grad_scale_factor: int) -> None:
        """Do nothing in a step without backward passes."""
        if self.has_backward:
            super().perform_reduce_grad(grad_scale_factor)

    def _prepare_to_send(self, outputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        """Check the shapes of activations, and convert them to the dtypes that the next stage expects."""
        found = tuple(shape for shape, _ in shapes_of(outputs))
        expected = tuple(shape for shape, _ in self._sent)
        if found != expected:
            raise RuntimeError(
                f"stage {self.stage_index} of the pipeline returned tensors of the shapes {found}, but on the device "
                f"'meta' it returned {expected} for inputs of the same shapes: the shapes of its outputs must depend "
                "only on the shapes of its inputs"
            )
        return tuple(
            _with_gradient(tensor.to(_sent_dtype(dtype, self._activation_dtype)).contiguous(), self.has_backward)
            for tensor, (_, dtype) in zip(outputs, self._sent, strict=True)
        )


def _with_gradient(activation: torch.Tensor, has_backward: bool) -> torch.Tensor:  # noqa: FBT001 -- private
    """Make an activation require a gradient, even after frozen layers, because the next stage sends one."""
    if has_backward and activation.is_floating_point() and not activation.requires_grad:
        return activation.detach().requires_grad_()
    return activation


def _sent_dtype(dtype: torch.dtype, activation_dtype: torch.dtype | None) -> torch.dtype:
    return activation_dtype if activation_dtype is not None and dtype.is_floating_point else dtype


def _examples(shapes: Shapes, activation_dtype: torch.dtype | None, *, is_training: bool) -> tuple[torch.Tensor, ...]:
    return tuple(
        torch.empty(
            shape,
            dtype=_sent_dtype(dtype, activation_dtype),
            device="meta",
            requires_grad=is_training and dtype.is_floating_point,
        )
        for shape, dtype in shapes
    )


# If a step raises, torch logs the whole schedule, hundreds of lines, before the traceback.
logging.getLogger("torch.distributed.pipelining.schedules").setLevel(logging.CRITICAL)

LossOf: TypeAlias = Callable[[int, Any], torch.Tensor]
"""Returns the loss of a micro-batch from its number and the outputs of the last stage."""


class PipelineSchedule:
    """One schedule of torch over the stages of this process.

    The number and the shapes of micro-batches are fixed for each schedule; steps with others need another schedule.

    Args:
        stages: The stages of this process.
        traits: Which schedule.
        num_micro_batches: How many micro-batches a step has.
        is_training: Whether there are backward passes.
    """

    def __init__(
        self, stages: list[LoopStage], traits: ScheduleTraits, num_micro_batches: int, *, is_training: bool
    ) -> None:
        self._stages = stages
        # torch splits the target into one per micro-batch. Here it is the number of the micro-batch.
        self._numbers = torch.arange(num_micro_batches)
        self._loss_of: LossOf | None = None
        build = getattr(pipelining, traits.class_name)
        self._schedule = build(
            stages[0] if traits.num_stages_per_process == 1 else stages,
            num_micro_batches,
            loss_fn=self._compute_loss if is_training else None,
            scale_grads=False,
        )

    def forward_backward(self, inputs: Sequence[BuildForwardInputsResult], loss_of: LossOf) -> None:
        """Run forward and backward passes.

        Args:
            inputs: The inputs of the model for each micro-batch.
            loss_of: Called in the process with the last stage.
        """
        self._loss_of = loss_of
        self._run(inputs, target=self._numbers if any(stage.is_last for stage in self._stages) else None)

    def forward(self, inputs: Sequence[BuildForwardInputsResult], use_outputs: Callable[[int, Any], None]) -> None:
        """Run forward passes only.

        Args:
            inputs: The inputs of the model for each micro-batch.
            use_outputs: Called in the process with the last stage, with the number of each micro-batch and its outputs.
        """
        for stage in self._stages:
            stage.use_outputs = use_outputs
        self._run(inputs, target=None)

    def _run(self, inputs: Sequence[BuildForwardInputsResult], target: torch.Tensor | None) -> None:
        for stage in self._stages:
            stage.inputs = inputs
        self._schedule.step(target=target, return_outputs=False)
        # Free the inputs and outputs before the next step.
        for stage in self._stages:
            stage.inputs = ()
            stage.clear_runtime_states()

    def _compute_loss(self, outputs: Any, target: torch.Tensor) -> torch.Tensor:
        if self._loss_of is None:
            raise RuntimeError("the schedule computed a loss outside of a step: call forward_backward")
        return self._loss_of(int(target), outputs)


_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, None: None}
# Each schedule holds buffers for the activations of a step.
_NUM_KEPT_SCHEDULES = 8

# Whether there are backward passes, the number of micro-batches, and the shapes of their inputs.
_Kind: TypeAlias = tuple[bool, int, Shapes]


class PipelineRunner(ModelRunner):
    """Runs the stages of this process as a part of a pipeline.

    Raises:
        ConfigurationError: If FSDP is applied to parts of a stage but not to the stage itself.
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
        super().__init__(stages, task=task, stepper=stepper, config=config, dist_context=dist_context)
        self._traits = SCHEDULES[config.pipeline.schedule]
        self._device = dist_context.device
        self._group = dist_context.mesh_for("dense").get_group("pipeline_parallel")
        self._num_processes = config.mesh.pipeline_parallel
        self._samples_per_micro_batch = config.samples_per_micro_batch
        self._tracer = ActivationTracer(stages, _owners(config), self._group, autocast_of(config, self._device))
        self._activation_dtype = _DTYPES[config.pipeline.activation_dtype]
        self._schedules: OrderedDict[_Kind, PipelineSchedule] = OrderedDict()
        for stage in stages:
            _prepare_sharding(stage, self._traits)
        GradientSynchronizer([stage.module for stage in stages])
        # NCCL connects the processes of a group in their first operation, in which all of them must take part. The
        # first that a schedule starts is a batch of sends and receives between some of them, which can hang.
        distributed.all_reduce(torch.zeros(1, device=self._device), group=self._group)

    def forward_backward(self, batches: Iterable[Any], compute_loss: ComputeLoss) -> None:  # noqa: D102 -- inherited
        own = list(batches)

        def loss_of(number: int, outputs: Any) -> torch.Tensor:
            with self._autocast():
                return compute_loss(number, own[number], outputs)

        built = [self._build_inputs(batch) for batch in own]
        self._schedule_for(built, is_training=True).forward_backward(built, loss_of)

    def forward(  # noqa: D102 -- inherited
        self,
        batches: Iterable[Any],
        num_samples: Sequence[int],
        use_outputs: UseOutputs,
        *,
        task: BaseTask | None = None,
        is_within_training: bool = False,
    ) -> None:
        del is_within_training  # all micro-batches have the size of those of training
        own, full = list(batches), self._samples_per_micro_batch
        built = [
            _padded(self._build_inputs(batch, task), num_own, full)
            for batch, num_own in zip(own, num_samples, strict=True)
        ]
        while not _without_backward(self._traits).accepts(len(built), self._num_processes):
            built.append(built[-1])

        def use(number: int, outputs: Any) -> None:
            if number < len(own):
                _require_samples(outputs, num_samples[number], full)
                cut = map_tensors(outputs, lambda tensor: _resize(tensor, full, num_samples[number]))
                use_outputs(number, own[number], cut)

        self._schedule_for(built, is_training=False).forward(built, use)

    def _schedule_for(self, built: Sequence[BuildForwardInputsResult], *, is_training: bool) -> PipelineSchedule:
        kind = (is_training, len(built), _common_shapes(built))
        if kind not in self._schedules:
            self._schedules[kind] = self._build_schedule(built, is_training=is_training)
            if len(self._schedules) > _NUM_KEPT_SCHEDULES:
                self._schedules.popitem(last=False)
        self._schedules.move_to_end(kind)
        return self._schedules[kind]

    def _build_schedule(self, built: Sequence[BuildForwardInputsResult], *, is_training: bool) -> PipelineSchedule:
        sent = self._tracer.trace(built[0])
        stages = [
            LoopStage(
                stage,
                received=() if stage.position.is_first else sent[stage.position.index - 1],
                sent=() if stage.position.is_last else sent[stage.position.index],
                activation_dtype=self._activation_dtype,
                is_training=is_training,
                autocast=self._autocast,
                device=self._device,
                group=self._group,
            )
            for stage in self._stages
        ]
        traits = self._traits if is_training else _without_backward(self._traits)
        return PipelineSchedule(stages, traits, len(built), is_training=is_training)


def _owners(config: LoopConfig) -> list[int]:
    """Return for each stage of the pipeline the position of the process that holds it."""
    num_processes = config.mesh.pipeline_parallel
    owners = {
        stage.index: process
        for process in range(num_processes)
        for stage in config.pipeline.stages_of(process, num_processes)
    }
    return [owners[index] for index in sorted(owners)]


def _without_backward(traits: ScheduleTraits) -> ScheduleTraits:
    """Return the schedule over the same stages that needs the fewest micro-batches, for steps without backward."""
    if traits.num_stages_per_process == 1:
        return SCHEDULES["gpipe"]
    return SCHEDULES["zbv"] if traits.is_v_shaped else traits


def _prepare_sharding(stage: ModelStage, traits: ScheduleTraits) -> None:
    """Configure FSDP for a pipeline.

    If a schedule computes the gradients of weights separately, FSDP would free the gathered weights before, and lose or
    falsify gradients without an error. So it keeps the weights until the end of the step.
    """
    if isinstance(stage.module, FSDPModule):
        if traits.splits_backward:
            stage.module.set_reshard_after_forward(False)
        return
    if any(isinstance(module, FSDPModule) for module in stage.module.modules()):
        raise ConfigurationError(
            f"parts of stage {stage.position.index} of the pipeline are sharded, but the stage itself is not: call "
            "fully_shard on ctx.model too, after its parts, in parallelize_model_stage"
        )


def _common_shapes(built: Sequence[BuildForwardInputsResult]) -> Shapes:
    """Return the shapes of the inputs, which must be the same for all micro-batches."""
    kinds = [shapes_of(list_tensors((each.inputs, each.shared_inputs))) for each in built]
    other = next((number for number, kind in enumerate(kinds) if kind != kinds[0]), None)
    if other is not None:
        raise RuntimeError(
            f"the inputs of the micro-batches of a step differ in shape or dtype: micro-batch 0 has {kinds[0]}, and "
            f"micro-batch {other} has {kinds[other]}. A pipeline needs them to be equal: pad all samples of a step to "
            "one size"
        )
    return kinds[0]


def _padded(built: BuildForwardInputsResult, num_samples: int, wanted: int) -> BuildForwardInputsResult:
    """Pad a smaller micro-batch by repeating its last sample, because all must have one shape."""
    if num_samples == wanted:
        return built
    inputs, shared = (
        map_tensors(each, lambda tensor: _resize(tensor, num_samples, wanted))
        for each in (built.inputs, built.shared_inputs)
    )
    return BuildForwardInputsResult(inputs=inputs, shared_inputs=shared)


def _require_samples(outputs: Any, num_samples: int, num_run: int) -> None:
    """Refuse outputs that a padded micro-batch has falsified, such as a loss that the model itself computes."""
    if num_samples == num_run or any(tensor.ndim and len(tensor) == num_run for tensor in list_tensors(outputs)):
        return
    raise RuntimeError(
        f"a micro-batch of {num_samples} samples was padded to {num_run}, because all micro-batches of a pipeline have "
        "one size, and the outputs of the last stage have no dimension of samples, so those of the padding cannot be "
        "removed: return outputs for each sample, or use data whose number of samples is a multiple of the global "
        "batch size"
    )


def _resize(tensor: torch.Tensor, num_samples: int, wanted: int) -> torch.Tensor:
    """Change the size of the first dimension of a tensor, if it is the number of samples."""
    if tensor.ndim == 0 or len(tensor) != num_samples or num_samples == wanted:
        return tensor
    if wanted < num_samples:
        return tensor[:wanted]
    return torch.cat([tensor, tensor[-1:].expand(wanted - num_samples, *tensor.shape[1:])])
