"""What each stage of a pipeline sends to the next, agreed on by all processes that hold one."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import distributed

from d9d.loop.component.model.model_builder import ModelStage
from d9d.loop.component.pipeline.activation_shapes import Shapes
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
