"""Running a model as a pipeline of stages."""

import logging
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeAlias

import torch
from torch import distributed
from torch.distributed import pipelining
from torch.distributed.fsdp import FSDPModule
from torch.distributed.pipelining import PipelineStage

from d9d.core.dist_context import DistributedContext
from d9d.core.pipeline import SCHEDULES, ScheduleTraits
from d9d.core.settings import ConfigurationError
from d9d.core.tensor_tree import list_tensors, map_tensors
from d9d.loop.component.gradients import GradientSynchronizer
from d9d.loop.component.model import (
    ComputeLoss,
    ForwardPrecision,
    ModelInputs,
    ModelRunner,
    ModelStage,
    Shapes,
    UseOutputs,
    as_tuple,
    shapes_of,
)
from d9d.loop.config import LoopConfig
from d9d.loop.control import BuildForwardInputsResult


class ActivationTracer:
    """Finds out the shapes of activations before a schedule is made for them.

    Args:
        stages: The stages of this process.
        owners: The place in the pipeline of the process that holds each stage, in the order of the stages.
        group: The processes of the pipeline.
    """

    def __init__(
        self,
        stages: Sequence[ModelStage],
        owners: Sequence[int],
        group: distributed.ProcessGroup,
    ) -> None:
        self._stages = {stage.position.index: stage for stage in stages}
        self._owners = owners
        self._group = group

    def trace(self, inputs: BuildForwardInputsResult) -> list[Shapes]:
        """Follow the shapes through all stages; all processes of the pipeline do so together.

        Args:
            inputs: The inputs of the model, for a micro-batch.

        Returns:
            What each stage but the last sends.

        Raises:
            RuntimeError: If a stage cannot tell what it would send; in all processes alike.
        """
        sent: list[Shapes] = []
        keywords: Mapping[str, Any] = {**inputs.inputs, **inputs.shared_inputs}
        for index, owner in enumerate(self._owners[:-1]):
            sent.append(self._agree(index, owner, sent[-1] if sent else (), keywords))
            keywords = inputs.shared_inputs
        return sent

    def _agree(self, index: int, owner: int, received: Shapes, keywords: Mapping[str, Any]) -> Shapes:
        told = [self._outputs(index, received, keywords)]
        source = distributed.get_global_rank(self._group, owner)
        distributed.broadcast_object_list(told, src=source, group=self._group)
        shapes, problem = told[0]
        if problem is not None:
            raise RuntimeError(
                f"stage {index} of the pipeline cannot tell the shapes of what it returns, which takes a run of it on "
                f"the device 'meta': {problem}"
            )
        return shapes

    def _outputs(self, index: int, received: Shapes, keywords: Mapping[str, Any]) -> tuple[Shapes, str | None]:
        """Return what a stage of this process sends, and what went wrong; nothing for those of others."""
        stage = self._stages.get(index)
        if stage is None or stage.outline is None:
            return (), None
        try:
            shapes = stage.outline.outputs(received, keywords)
        except Exception as error:  # noqa: BLE001 -- raised in all processes
            return (), f"{type(error).__qualname__}: {error}"
        return shapes, None


class LoopStage(PipelineStage):
    """Runs one stage of the model.

    torch cuts one large batch into micro-batches and knows them by their number alone. The loop has micro-batches
    already, of any structure; so nothing is handed to torch, and the stage looks up its inputs by that number.

    Args:
        stage: The stage of the model.
        received: The shapes of what it receives from the stage before it.
        sent: The shapes of what it sends to the one after it.
        traveling_dtype: The number format of floating numbers on their way; `None` keeps that of the stages.
        is_training: Whether there will be backward passes.
        precision: The number format of forward passes.
        device: Where it runs.
        group: The processes of this pipeline.
    """

    inputs: Sequence[BuildForwardInputsResult] = ()
    """The inputs of the model for each micro-batch of the step that runs."""

    use_outputs: Callable[[int, Any], None] | None = None
    """Takes what the last stage returns for each micro-batch."""

    def __init__(
        self,
        stage: ModelStage,
        *,
        received: Shapes,
        sent: Shapes,
        traveling_dtype: torch.dtype | None,
        is_training: bool,
        precision: ForwardPrecision,
        device: torch.device,
        group: distributed.ProcessGroup,
    ) -> None:
        # With the shapes given torch does not run the model once more to find them out, which would count twice.
        super().__init__(
            stage.module,
            stage.position.index,
            stage.position.num_stages,
            device,
            input_args=_examples(received, traveling_dtype, is_training=is_training),
            output_args=_examples(sent, traveling_dtype, is_training=is_training),
            group=group,
        )
        self._received = received
        self._sent = sent
        self._traveling_dtype = traveling_dtype
        self._precision = precision
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
            # torch wraps whatever the model raises; the user sees what was raised.
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
            with self._precision.context():
                outputs = super().forward_maybe_with_nosync(*own, **kwargs)  # type: ignore[no-untyped-call]
                if not self.is_last:
                    return self._checked(as_tuple(outputs))
                # torch keeps what is returned here, and takes it for tensors.
                self._outputs = outputs
                return tuple(list_tensors(outputs))
        except Exception as error:
            self._failure = error
            raise

    def get_fwd_send_ops(self, fwd_chunk_id: int) -> list[distributed.P2POp]:
        """Send nothing after the last stage, whose outputs can be of any kind."""
        return [] if self.is_last else super().get_fwd_send_ops(fwd_chunk_id)

    def get_local_bwd_output(self, mb_index: int) -> Any:
        """Return nothing in a step without backward passes, where torch asks none the less."""
        return super().get_local_bwd_output(mb_index) if self.has_backward else ()  # type: ignore[no-untyped-call]

    def set_local_bwd_input(self, next_stage_bwd_outputs: Any, mb_index: int) -> None:
        """Do nothing in a step without backward passes."""
        if self.has_backward:
            super().set_local_bwd_input(next_stage_bwd_outputs, mb_index)

    def perform_reduce_grad(self, grad_scale_factor: int) -> None:
        """Do nothing in a step without backward passes."""
        if self.has_backward:
            super().perform_reduce_grad(grad_scale_factor)

    def _checked(self, outputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        """Bring activations into the shape that the next stage has made room for."""
        found = tuple(shape for shape, _ in shapes_of(outputs))
        expected = tuple(shape for shape, _ in self._sent)
        if found != expected:
            raise RuntimeError(
                f"stage {self.stage_index} of the pipeline returned tensors of the shapes {found}, and for these "
                f"inputs it was to return {expected}, by its shapes on the device 'meta': let the shapes of its "
                "outputs depend on the shapes of its inputs alone"
            )
        return tuple(
            _as_source(tensor.to(_on_the_way(dtype, self._traveling_dtype)).contiguous(), is_training=self.has_backward)
            for tensor, (_, dtype) in zip(outputs, self._sent, strict=True)
        )


def _as_source(activation: torch.Tensor, *, is_training: bool) -> torch.Tensor:
    """Have gradients come to an activation also where nothing before it wants any: the next stage sends them."""
    if is_training and activation.is_floating_point() and not activation.requires_grad:
        return activation.detach().requires_grad_()
    return activation


def _on_the_way(dtype: torch.dtype, traveling_dtype: torch.dtype | None) -> torch.dtype:
    return traveling_dtype if traveling_dtype is not None and dtype.is_floating_point else dtype


def _examples(shapes: Shapes, traveling_dtype: torch.dtype | None, *, is_training: bool) -> tuple[torch.Tensor, ...]:
    return tuple(
        torch.empty(
            shape,
            dtype=_on_the_way(dtype, traveling_dtype),
            device="meta",
            requires_grad=is_training and dtype.is_floating_point,
        )
        for shape, dtype in shapes
    )


# When anything in a step raises, torch writes the whole schedule, hundreds of lines, before what the user has to see.
logging.getLogger("torch.distributed.pipelining.schedules").setLevel(logging.CRITICAL)

LossOf: TypeAlias = Callable[[int, Any], torch.Tensor]
"""Takes the number of a micro-batch and what the last stage returned for it, and returns its loss."""


class PipelineSchedule:
    """Runs the stages of this process in turns with those of the others.

    torch fixes the number and the shape of micro-batches for each schedule. Steps of another kind take another one.

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
        # torch cuts a target into one for each micro-batch. All that it needs to tell is the number.
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
            loss_of: Called where the last stage is.
        """
        self._loss_of = loss_of
        self._run(inputs, target=self._numbers if any(stage.is_last for stage in self._stages) else None)

    def forward(self, inputs: Sequence[BuildForwardInputsResult], use_outputs: Callable[[int, Any], None]) -> None:
        """Run forward passes alone.

        Args:
            inputs: The inputs of the model for each micro-batch.
            use_outputs: Called where the last stage is, with the number of each micro-batch and its outputs.
        """
        for stage in self._stages:
            stage.use_outputs = use_outputs
        self._run(inputs, target=None)

    def _run(self, inputs: Sequence[BuildForwardInputsResult], target: torch.Tensor | None) -> None:
        for stage in self._stages:
            stage.inputs = inputs
        self._schedule.step(target=target, return_outputs=False)
        # Neither inputs nor outputs are kept until the next step.
        for stage in self._stages:
            stage.inputs = ()
            stage.clear_runtime_states()

    def _compute_loss(self, outputs: Any, target: torch.Tensor) -> torch.Tensor:
        if self._loss_of is None:
            raise RuntimeError("the schedule was asked for a loss outside of a step: run it by forward_backward")
        return self._loss_of(int(target), outputs)


_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, None: None}
# Each holds room for the activations of a step.
_NUM_KEPT_SCHEDULES = 8

_Kind: TypeAlias = tuple[bool, int, Shapes]


class PipelineRunner(ModelRunner):
    """Runs the stages of this process in turns with those of others.

    Args:
        stages: The stages of this process.
        config: Names the schedule.
        inputs: Chooses the inputs of the model.
        precision: The number format of forward passes and losses.
        dist_context: The processes of the pipeline.

    Raises:
        ConfigurationError: If FSDP is applied to parts of a stage and not to the stage.
    """

    def __init__(
        self,
        stages: Sequence[ModelStage],
        *,
        config: LoopConfig,
        inputs: ModelInputs,
        precision: ForwardPrecision,
        dist_context: DistributedContext,
    ) -> None:
        self._stages = stages
        self._traits = SCHEDULES[config.pipeline.schedule]
        self._inputs = inputs
        self._precision = precision
        self._device = dist_context.device
        self._group = dist_context.mesh_for("dense").get_group("pipeline_parallel")
        self._num_processes = config.mesh.pipeline_parallel
        self._samples_per_micro_batch = config.samples_per_micro_batch
        self._tracer = ActivationTracer(stages, _owners(config), self._group)
        self._traveling_dtype = _DTYPES[config.pipeline.activation_dtype]
        self._schedules: OrderedDict[_Kind, PipelineSchedule] = OrderedDict()
        for stage in stages:
            _prepare_sharding(stage, self._traits)
        GradientSynchronizer([stage.module for stage in stages])

    def forward_backward(self, batches: Iterable[Any], compute_loss: ComputeLoss) -> None:  # noqa: D102 -- inherited
        own = list(batches)

        def loss_of(number: int, outputs: Any) -> torch.Tensor:
            with self._precision.context():
                return compute_loss(outputs, own[number])

        built = [self._inputs.build(batch) for batch in own]
        self._schedule_for(built, is_training=True).forward_backward(built, loss_of)

    def forward(  # noqa: D102 -- inherited
        self, batches: Iterable[Any], num_samples: Sequence[int], use_outputs: UseOutputs
    ) -> None:
        own, full = list(batches), self._samples_per_micro_batch
        built = [
            _resized(self._inputs.build(batch), num_own, full) for batch, num_own in zip(own, num_samples, strict=True)
        ]
        while not _without_backward(self._traits).accepts(len(built), self._num_processes):
            built.append(built[-1])

        def use(number: int, outputs: Any) -> None:
            if number < len(own):
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
                traveling_dtype=self._traveling_dtype,
                is_training=is_training,
                precision=self._precision,
                device=self._device,
                group=self._group,
            )
            for stage in self._stages
        ]
        traits = self._traits if is_training else _without_backward(self._traits)
        return PipelineSchedule(stages, traits, len(built), is_training=is_training)


def _owners(config: LoopConfig) -> list[int]:
    """Return the process that holds each stage, by the order of the stages."""
    num_processes = config.mesh.pipeline_parallel
    owners = {
        stage.index: process
        for process in range(num_processes)
        for stage in config.pipeline.stages_of(process, num_processes)
    }
    return [owners[index] for index in sorted(owners)]


def _without_backward(traits: ScheduleTraits) -> ScheduleTraits:
    """Return the schedule with the same stages that takes the fewest micro-batches; forward passes are the same."""
    if traits.num_stages_per_process == 1:
        return SCHEDULES["gpipe"]
    return SCHEDULES["zbv"] if traits.is_v_shaped else traits


def _prepare_sharding(stage: ModelStage, traits: ScheduleTraits) -> None:
    """Make FSDP right for a pipeline.

    Where gradients of weights are computed apart, FSDP has freed by then the weights that they belong to, and loses or
    falsifies gradients without an error; so it keeps them until the end of the step.
    """
    if isinstance(stage.module, FSDPModule):
        if traits.splits_backward:
            stage.module.set_reshard_after_forward(False)
        return
    if any(isinstance(module, FSDPModule) for module in stage.module.modules()):
        raise ConfigurationError(
            f"parts of stage {stage.position.index} of the pipeline are sharded, and the stage itself is not: call "
            "fully_shard on ctx.model as well, after all of its parts, in parallelize_model_stage"
        )


def _common_shapes(built: Sequence[BuildForwardInputsResult]) -> Shapes:
    """Return the shapes of the inputs, which must be those of all micro-batches."""
    kinds = [shapes_of(list_tensors((each.inputs, each.shared_inputs))) for each in built]
    odd = next((number for number, kind in enumerate(kinds) if kind != kinds[0]), None)
    if odd is not None:
        raise RuntimeError(
            f"the micro-batches of a step differ in shape: the first has inputs of {kinds[0]}, number {odd} of "
            f"{kinds[odd]}; a pipeline takes one shape a step, so pad all samples of a step alike"
        )
    return kinds[0]


def _resized(built: BuildForwardInputsResult, num_samples: int, wanted: int) -> BuildForwardInputsResult:
    """Fill a last, smaller micro-batch up with its last sample, since all have one shape."""
    if num_samples == wanted:
        return built
    return BuildForwardInputsResult(
        inputs=map_tensors(built.inputs, lambda tensor: _resize(tensor, num_samples, wanted)),
        shared_inputs=map_tensors(built.shared_inputs, lambda tensor: _resize(tensor, num_samples, wanted)),
    )


def _resize(tensor: torch.Tensor, num_samples: int, wanted: int) -> torch.Tensor:
    """Change the number of samples of a tensor whose first dimension counts them; leave any other alone."""
    if tensor.ndim == 0 or len(tensor) != num_samples or num_samples == wanted:
        return tensor
    if wanted < num_samples:
        return tensor[:wanted]
    return torch.cat([tensor, tensor[-1:].expand(wanted - num_samples, *tensor.shape[1:])])
