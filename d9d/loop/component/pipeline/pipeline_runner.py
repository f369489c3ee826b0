"""How a model that is cut into stages is run over the micro-batches of a step."""

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from typing import Any, TypeAlias

import torch
from torch.distributed.fsdp import FSDPModule

from d9d.core.configuration import ConfigurationError
from d9d.core.dist_context import DistributedContext
from d9d.core.pipeline import SCHEDULES, ScheduleTraits
from d9d.loop.component.gradient.gradient_synchronizer import GradientSynchronizer
from d9d.loop.component.model.model_builder import ModelStage
from d9d.loop.component.model.model_inputs import ModelInputs
from d9d.loop.component.model.model_runner import ComputeLoss, ModelRunner, UseOutputs
from d9d.loop.component.model.precision import ForwardPrecision
from d9d.loop.component.pipeline.activation_shapes import Shapes, shapes_of
from d9d.loop.component.pipeline.activation_tracer import ActivationTracer
from d9d.loop.component.pipeline.pipeline_schedule import PipelineSchedule
from d9d.loop.component.pipeline.pipeline_stage import LoopStage
from d9d.loop.component.tensor_tree import list_tensors, map_tensors
from d9d.loop.config import LoopConfig
from d9d.loop.control import BuildForwardInputsResult

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
