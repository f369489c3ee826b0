"""One of torch's schedules over the stages of a process, for steps of one number of micro-batches of one shape."""

import logging
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import torch
from torch.distributed import pipelining

from d9d.core.pipeline import ScheduleTraits
from d9d.loop.component.pipeline.pipeline_stage import LoopStage
from d9d.loop.control import BuildForwardInputsResult

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
