"""Each event of a training step is triggered at the moment that its documentation names."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from declared import events_of
from torch import nn

from d9d.core.protocol import LRSchedulerProtocol, OptimizerProtocol
from d9d.loop.config import CheckpointingConfig
from d9d.loop.control import (
    ComputeLossContext,
    ComputeLossResult,
    InitializeLRSchedulerContext,
    InitializeOptimizerContext,
)
from d9d.loop.event import Event
from d9d.loop.event.catalogue import train
from d9d.loop.event.catalogue.train import (
    EVENT_TRAIN_FINISHED,
    EVENT_TRAIN_FORWARD_BACKWARD_POST,
    EVENT_TRAIN_FORWARD_BACKWARD_PRE,
    EVENT_TRAIN_OPTIMIZER_STEP_POST,
    EVENT_TRAIN_OPTIMIZER_STEP_PRE,
    EVENT_TRAIN_STEP_POST,
    EVENT_TRAIN_STEP_PRE,
    EventStepContext,
)
from d9d.loop.run import Trainer

from .toy_job import (
    Sample,
    StoppedError,
    ToyDataset,
    ToyTask,
    configure_training,
    same_tensors,
    steps_saved,
    training_config,
    weights_of,
)

STEP_EVENTS = [event for event in events_of(train) if ".step." in event.id or "_" in event.id.split(".")[1]]


def sgd(ctx: InitializeOptimizerContext) -> OptimizerProtocol:
    """Build SGD with a learning rate of one, so that a step subtracts exactly the gradients."""
    return torch.optim.SGD(ctx.parameters(), lr=1.0)


def halving(ctx: InitializeLRSchedulerContext) -> LRSchedulerProtocol:
    """Build a scheduler that halves the learning rate after each step."""
    return torch.optim.lr_scheduler.ExponentialLR(ctx.torch_optimizer, gamma=0.5)


def gradients_of(model: nn.Module) -> list[torch.Tensor | None]:
    """Copy the current gradients of a model."""
    return [None if weight.grad is None else weight.grad.clone() for weight in model.parameters()]


def norm_of(gradients: list[torch.Tensor | None]) -> float:
    """Return the L2 norm over all gradients."""
    return float(torch.cat([gradient.flatten() for gradient in gradients if gradient is not None]).norm())


def observe(trainer: Trainer, look: Callable[[], Any], *events: Event[EventStepContext]) -> dict[str, list[Any]]:
    """Train, and record what `look` returns at each event, step by step."""

    def noting(sights: list[Any]) -> Callable[[EventStepContext], None]:
        return lambda ctx: sights.append(look())

    seen: dict[str, list[Any]] = {event.id: [] for event in events}
    for event in events:
        trainer.event_bus.subscribe(event, noting(seen[event.id]))
    trainer.train()
    return seen


class CountingDataset(ToyDataset):
    """Counts the samples that were read."""

    num_read = 0

    def __getitem__(self, index: int) -> Sample:
        self.num_read += 1
        return super().__getitem__(index)


@pytest.mark.parametrize("event", STEP_EVENTS, ids=lambda event: event.id)
def test_the_stepper_names_the_step_that_runs(event: Event[EventStepContext]) -> None:
    """At each event of a step, the stepper has the index of the step, from 0, and the total number of steps."""
    seen: list[tuple[int, int]] = []
    trainer = configure_training(training_config())
    trainer.event_bus.subscribe(event, lambda ctx: seen.append((ctx.stepper.current_step, ctx.stepper.total_steps)))

    trainer.train()

    assert seen == [(0, 3), (1, 3), (2, 3)]


def test_step_pre_comes_before_the_samples_are_read() -> None:
    """At STEP_PRE no sample of the step has been read; at FORWARD_BACKWARD_POST all have."""
    dataset = CountingDataset()
    trainer = configure_training(training_config(), dataset=dataset)

    seen = observe(trainer, lambda: dataset.num_read, EVENT_TRAIN_STEP_PRE, EVENT_TRAIN_FORWARD_BACKWARD_POST)

    assert seen == {EVENT_TRAIN_STEP_PRE.id: [0, 4, 8], EVENT_TRAIN_FORWARD_BACKWARD_POST.id: [4, 8, 12]}


def test_all_passes_of_a_step_run_between_pre_and_post() -> None:
    """All forward and backward passes of a step run between FORWARD_BACKWARD_PRE and FORWARD_BACKWARD_POST."""
    trainer = configure_training(training_config())
    passes: list[str] = []
    trainer.modules[0].register_forward_hook(lambda *_: passes.append("forward"))
    weight = next(trainer.modules[0].parameters())
    weight.register_post_accumulate_grad_hook(lambda _: passes.append("backward"))  # type: ignore[no-untyped-call]

    seen = observe(trainer, passes.copy, EVENT_TRAIN_FORWARD_BACKWARD_PRE, EVENT_TRAIN_FORWARD_BACKWARD_POST)
    step = ["forward", "backward"] * 2

    assert seen[EVENT_TRAIN_FORWARD_BACKWARD_PRE.id] == [[], step, step * 2]
    assert seen[EVENT_TRAIN_FORWARD_BACKWARD_POST.id] == [step, step * 2, step * 3]


def test_gradients_are_clipped_before_optimizer_step_pre() -> None:
    """At OPTIMIZER_STEP_PRE the gradient norm is clipped; at FORWARD_BACKWARD_POST it is not yet."""
    trainer = configure_training(training_config(max_gradient_norm=0.01))

    seen = observe(
        trainer,
        lambda: norm_of(gradients_of(trainer.modules[0])),
        EVENT_TRAIN_FORWARD_BACKWARD_POST,
        EVENT_TRAIN_OPTIMIZER_STEP_PRE,
    )

    assert min(seen[EVENT_TRAIN_FORWARD_BACKWARD_POST.id]) > 0.1
    assert seen[EVENT_TRAIN_OPTIMIZER_STEP_PRE.id] == pytest.approx([0.01] * 3, rel=1e-3)


def test_gradients_are_scaled_before_optimizer_step_pre() -> None:
    """At OPTIMIZER_STEP_PRE the gradients have been divided by the sum of the loss weights of the step."""

    class WeighingTask(ToyTask):
        def compute_loss(self, ctx: ComputeLossContext) -> ComputeLossResult:
            return ComputeLossResult(loss=super().compute_loss(ctx).loss, loss_weight=5.0)

    trainer = configure_training(training_config(max_gradient_norm=None), task=WeighingTask())

    seen = observe(
        trainer,
        lambda: gradients_of(trainer.modules[0]),
        EVENT_TRAIN_FORWARD_BACKWARD_POST,
        EVENT_TRAIN_OPTIMIZER_STEP_PRE,
    )

    for gathered, scaled in zip(*seen.values(), strict=True):
        for total, mean in zip(gathered, scaled, strict=True):
            torch.testing.assert_close(total / 10, mean)


def test_the_optimizer_updates_the_parameters_between_pre_and_post() -> None:
    """Parameters change only between OPTIMIZER_STEP_PRE and OPTIMIZER_STEP_POST; the gradients still exist at POST."""
    trainer = configure_training(training_config(), optimizer_provider=sgd)

    seen = observe(
        trainer,
        lambda: (weights_of(trainer.modules[0]), gradients_of(trainer.modules[0])),
        EVENT_TRAIN_STEP_PRE,
        EVENT_TRAIN_OPTIMIZER_STEP_PRE,
        EVENT_TRAIN_OPTIMIZER_STEP_POST,
        EVENT_TRAIN_STEP_POST,
    )

    for begun, pre, post, done in zip(*seen.values(), strict=True):
        assert same_tensors(begun[0], pre[0])
        for weight, gradient, updated, kept in zip(pre[0].values(), pre[1], post[0].values(), post[1], strict=True):
            assert gradient.abs().sum() > 0
            assert torch.equal(updated, weight - gradient)
            assert torch.equal(kept, gradient)
        assert same_tensors(post[0], done[0])


def test_gradients_are_zeroed_and_the_scheduler_has_stepped_at_step_post() -> None:
    """At STEP_POST the gradients are `None` and the learning rate is that of the next step."""
    trainer = configure_training(training_config(), optimizer_provider=sgd, lr_scheduler_provider=halving)
    optimizer = trainer.optimizer
    assert isinstance(optimizer, torch.optim.Optimizer)

    seen = observe(
        trainer,
        lambda: (gradients_of(trainer.modules[0]), optimizer.param_groups[0]["lr"]),
        EVENT_TRAIN_OPTIMIZER_STEP_POST,
        EVENT_TRAIN_STEP_POST,
    )

    assert [rate for _, rate in seen[EVENT_TRAIN_OPTIMIZER_STEP_POST.id]] == [1.0, 0.5, 0.25]
    assert [rate for _, rate in seen[EVENT_TRAIN_STEP_POST.id]] == [0.5, 0.25, 0.125]
    assert [gradients for gradients, _ in seen[EVENT_TRAIN_STEP_POST.id]] == [[None] * 4] * 3


def test_a_checkpoint_is_written_after_step_post(every_step: CheckpointingConfig) -> None:
    """The checkpoint of a step does not exist yet at its STEP_POST; it exists at the next STEP_PRE."""
    trainer = configure_training(training_config(every_step))

    seen = observe(trainer, lambda: steps_saved(every_step.folder), EVENT_TRAIN_STEP_PRE, EVENT_TRAIN_STEP_POST)

    assert seen == {EVENT_TRAIN_STEP_PRE.id: [[], [1], [1, 2]], EVENT_TRAIN_STEP_POST.id: [[], [1], [1, 2]]}


def test_training_is_finished_once_the_last_checkpoint_is_written(every_step: CheckpointingConfig) -> None:
    """At FINISHED all steps are complete and saved."""
    trainer = configure_training(training_config(every_step))
    seen: list[tuple[int, list[int]]] = []
    trainer.event_bus.subscribe(
        EVENT_TRAIN_FINISHED, lambda ctx: seen.append((trainer.stepper.current_step, steps_saved(every_step.folder)))
    )

    trainer.train()

    assert seen == [(3, [1, 2, 3])]


def test_failed_training_does_not_trigger_finished() -> None:
    """An exception from the task propagates unchanged, and FINISHED is not triggered."""

    class FailingTask(ToyTask):
        def compute_loss(self, ctx: ComputeLossContext) -> ComputeLossResult:
            if ctx.stepper.current_step == 1:
                raise StoppedError
            return super().compute_loss(ctx)

    trainer = configure_training(training_config(), task=FailingTask())
    finished: list[object] = []
    trainer.event_bus.subscribe(EVENT_TRAIN_FINISHED, finished.append)

    with pytest.raises(StoppedError):
        trainer.train()
    assert finished == []
    assert trainer.stepper.current_step == 1
