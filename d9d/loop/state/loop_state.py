"""The state of each loop: which parts it has, and how the processes of a job hold them."""

from collections.abc import Mapping, Sequence

import torch
from torch import nn

from d9d.core.protocol import OptimizerProtocol, Stateful
from d9d.loop.component.checkpoint.model_state import ModelState
from d9d.loop.component.checkpoint.optimizer_state import OptimizerState
from d9d.loop.component.ranks import Ranks
from d9d.loop.state.job_state import Held, JobState, Part


def training_state(
    ranks: Ranks,
    *,
    stepper: Stateful,
    modules: Sequence[nn.Module],
    optimizer: OptimizerProtocol,
    lr_scheduler: Stateful,
    task: Stateful,
    random: Stateful,
    data: Mapping[str, Stateful] | None = None,
    participants: Mapping[str, Stateful] | None = None,
) -> JobState:
    """Return the state of a training run.

    Args:
        ranks: The processes of the job.
        stepper: Counts the steps.
        modules: The stages of the model that this process holds.
        optimizer: Updates their parameters.
        lr_scheduler: Sets the learning rate.
        task: May carry something of its own.
        random: The random number generators of this process.
        data: What the data of this process needs to go on, by name; nothing where the step alone decides.
        participants: Who else has state, by name; the same names in all processes.

    Returns:
        The state, in the order in which its parts take it back.
    """
    model = ModelState(modules)
    parts = {
        "stepper": Part(stepper),
        # Another number of processes would read some samples twice, and others never.
        **{name: Part(holder, Held.APART_AND_NEEDED) for name, holder in (data or {}).items()},
        "model": Part(model),
        "optimizer": _optimizer_part(optimizer, model),
        "lr_scheduler": Part(lr_scheduler),
        "task": Part(task, Held.ALIKE_OR_APART),
        **_participating(participants or {}),
        "random": Part(random, Held.APART),
    }
    return JobState(parts, ranks)


def inference_state(
    ranks: Ranks, *, stepper: Stateful, task: Stateful, random: Stateful, participants: Mapping[str, Stateful]
) -> JobState:
    """Return the state of an inference run.

    Args:
        ranks: The processes of the job.
        stepper: Counts the steps.
        task: Carries the outputs of this process, or how far it has written them.
        random: The random number generators of this process.
        participants: Who else has state, by name; the same names in all processes.

    Returns:
        The state, in the order in which its parts take it back.
    """
    parts = {
        "stepper": Part(stepper),
        # Another number of processes could not tell which outputs are there and whose they are.
        "task": Part(task, Held.APART_AND_NEEDED),
        **_participating(participants),
        "random": Part(random, Held.APART),
    }
    return JobState(parts, ranks)


def _optimizer_part(optimizer: OptimizerProtocol, model: ModelState) -> Part:
    if isinstance(optimizer, torch.optim.Optimizer):
        return Part(OptimizerState(optimizer, model))
    # Of another kind nothing is known about which state belongs to which parameter.
    return Part(optimizer, Held.APART_AND_NEEDED)


def _participating(holders: Mapping[str, Stateful]) -> dict[str, Part]:
    # Someone who takes part from now on, or no more, is no reason not to go on.
    return {name: Part(holder, Held.ALIKE_OR_APART, may_begin_anew=True) for name, holder in holders.items()}
