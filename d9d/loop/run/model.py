"""The model of a run: its stages in this process, and what runs them."""

from collections.abc import Sequence

from torch import nn

from d9d.core.configuration import ConfigurationError
from d9d.core.dist_context import DistributedContext
from d9d.core.stepper import Stepper
from d9d.loop.component.model_builder import ModelStage, build_model_stage
from d9d.loop.component.model_inputs import ModelInputs
from d9d.loop.component.model_runner import ModelRunner, WholeModelRunner
from d9d.loop.component.precision import ForwardPrecision
from d9d.loop.component.synchronization import require_synchronized
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
        ConfigurationError: If two of them name a weight alike, or gradients would not be added up over processes.
    """
    positions = config.pipeline.stages_of(dist_context.pipeline_rank, config.mesh.pipeline_parallel)
    stages = [build_model_stage(provider, dist_context, position, seed=config.seed) for position in positions]
    modules = [stage.module for stage in stages]
    _require_own_names(modules)
    require_synchronized(modules, dist_context, schedule=config.pipeline.schedule if len(modules) > 1 else None)
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
    from d9d.loop.component.pipeline_runner import PipelineRunner  # noqa: PLC0415 -- for pipelines alone

    return PipelineRunner(stages, config=config, inputs=inputs, precision=precision, dist_context=dist_context)


def _require_own_names(modules: Sequence[nn.Module]) -> None:
    seen: set[str] = set()
    for module in modules:
        names = {name for name, _ in module.named_parameters()}
        shared = sorted(seen & names)
        if shared:
            raise ConfigurationError(
                f"two stages of the pipeline have a weight of the name {shared[0]!r}: name the layers of a stage by "
                "their index in the whole model, for instance in a torch.nn.ModuleDict, so that weights are found "
                "again when the model is cut otherwise"
            )
        seen |= names
