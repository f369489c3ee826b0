"""The stages of the model that a process holds: from their provider to the device."""

import dataclasses

from torch import nn

from d9d.core.dist_context import DistributedContext
from d9d.core.pipeline import StagePosition
from d9d.loop.component.pipeline.activation_shapes import StageOutline
from d9d.loop.component.provided import expect_result
from d9d.loop.control import (
    InitializeModelStageContext,
    InitializeModelStageResult,
    ModelProvider,
    ParallelizeModelStageContext,
)


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
