"""The model of a run: its stages in this process, and what runs them."""

from collections.abc import Sequence

from torch import nn

from d9d.core.dist_context import DistributedContext
from d9d.core.stepper import Stepper
from d9d.loop.component.model.model_builder import ModelStage, build_model_stage
from d9d.loop.component.model.model_inputs import ModelInputs
from d9d.loop.component.model.model_runner import ModelRunner, WholeModelRunner
from d9d.loop.component.model.precision import ForwardPrecision
from d9d.loop.component.model.stage_names import require_own_names
from d9d.loop.component.model.synchronization import require_synchronized
from d9d.loop.component.model.weight_initializer import initialize_weights
from d9d.loop.component.ranks import Ranks
from d9d.loop.config import LoopConfig
from d9d.loop.control import BaseTask, ModelProvider


def build_stages(provider: ModelProvider, config: LoopConfig, dist_context: DistributedContext) -> list[ModelStage]:
    """Build all stages of the model that this process holds.

    Args:
        provider: Brings them.
        config: Says how the model is cut.
        dist_context: Says where they run.

    Returns:
        The stages, in the order of the pipeline.

    Raises:
        ConfigurationError: On all processes, if a weight cannot be initialised, two stages name a weight alike, or
            gradients would not be added up over processes.
    """
    positions = config.pipeline.stages_of(dist_context.pipeline_rank, config.mesh.pipeline_parallel)
    stages = [build_model_stage(provider, dist_context, position) for position in positions]
    modules = [stage.module for stage in stages]
    ranks = Ranks.of(dist_context)
    ranks.everywhere(lambda: _initialize(modules, config, dist_context))
    require_synchronized(modules, dist_context, schedule=config.pipeline.schedule if len(modules) > 1 else None)
    require_own_names(stages, ranks)
    return stages


def build_runner(
    stages: Sequence[ModelStage],
    *,
    config: LoopConfig,
    task: BaseTask,
    stepper: Stepper,
    dist_context: DistributedContext,
) -> ModelRunner:
    """Build what runs the model.

    Args:
        stages: The stages of this process.
        config: Names the number format and the schedule.
        task: Chooses the inputs of the model.
        stepper: Knows the steps.
        dist_context: The processes that hold the other stages.

    Returns:
        The runner.
    """
    inputs = ModelInputs(task, stepper)
    precision = ForwardPrecision(config.precision, dist_context.device)
    if config.mesh.pipeline_parallel == 1:
        return WholeModelRunner(stages[0].module, inputs, precision, config.num_micro_batches)
    # Loading torch's pipelines takes as long as loading all of the loop.
    from d9d.loop.component.pipeline.pipeline_runner import PipelineRunner  # noqa: PLC0415 -- for pipelines alone

    return PipelineRunner(stages, config=config, inputs=inputs, precision=precision, dist_context=dist_context)


def _initialize(modules: Sequence[nn.Module], config: LoopConfig, dist_context: DistributedContext) -> None:
    for module in modules:
        initialize_weights(module, device=dist_context.device, seed=config.seed)
