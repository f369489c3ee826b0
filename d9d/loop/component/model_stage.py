"""The model of a loop: from its provider to the device, and from a micro-batch to its outputs."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import nn

from d9d.core.dist_context import DistributedContext
from d9d.core.stepper import Stepper
from d9d.loop.component.provided import expect_result
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


def build_model_stage(provider: ModelProvider, dist_context: DistributedContext) -> nn.Module:
    """Build the model, move it to the device, and have it prepared for running.

    Args:
        provider: Brings the model.
        dist_context: Says where it runs.

    Returns:
        The model.
    """
    result = provider.initialize_model_stage(InitializeModelStageContext(dist_context=dist_context))
    result = expect_result(result, InitializeModelStageResult, provider.initialize_model_stage)
    model = result.model.to(dist_context.device)
    provider.parallelize_model_stage(ParallelizeModelStageContext(dist_context=dist_context, model=model))
    return model


class ModelStage:
    """Runs the model on one micro-batch after the other.

    Args:
        model: The model, on the device.
        task: Chooses what of a micro-batch the model receives.
        stepper: Knows the steps.
        config: Names the number format of forward passes.
        device: Where the model runs.
    """

    def __init__(
        self, *, model: nn.Module, task: BaseTask, stepper: Stepper, config: LoopConfig, device: torch.device
    ) -> None:
        self._model = model
        self._task = task
        self._stepper = stepper
        self._device = device
        self._precision = config.precision

    def precision(self) -> AbstractContextManager[object]:
        """Make the context in which forward passes and losses are computed."""
        if self._precision == "bf16-autocast":
            return torch.autocast(self._device.type, dtype=torch.bfloat16)
        return nullcontext()

    def forward(self, micro_batch: Any) -> Any:
        """Run the model.

        Args:
            micro_batch: What the data loader yielded, on the device.

        Returns:
            The outputs of the model.
        """
        ctx = BuildForwardInputsContext(batch=micro_batch, stepper=self._stepper)
        result = self._task.build_forward_inputs(ctx)
        inputs = expect_result(result, BuildForwardInputsResult, self._task.build_forward_inputs).inputs
        return self._model(**inputs)
