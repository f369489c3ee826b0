"""The inputs of the model, chosen by the task."""

from typing import Any

from d9d.core.stepper import Stepper
from d9d.loop.component.provided import expect_result
from d9d.loop.control import BaseTask, BuildForwardInputsContext, BuildForwardInputsResult


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
        result = self._task.build_forward_inputs(BuildForwardInputsContext(batch=batch, stepper=self._stepper))
        return expect_result(result, BuildForwardInputsResult, self._task.build_forward_inputs)
