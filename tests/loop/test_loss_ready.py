"""The loss of each micro-batch is an event."""

from typing import Any

import pytest
import torch
from layout_job import LAYOUTS, ClassifyTask, configure, record_losses
from readings import readings

from d9d.loop.control import ComputeLossContext, ComputeLossResult
from d9d.loop.event.catalogue.train import (
    EVENT_TRAIN_FAILED,
    EVENT_TRAIN_FORWARD_BACKWARD_POST,
    EVENT_TRAIN_FORWARD_BACKWARD_PRE,
    EVENT_TRAIN_LOSS_READY,
    EventLossReadyContext,
)

from .toy_job import StoppedError, ToyTask, configure_training, same_tensors, training_config, weights_of


class RememberingTask(ToyTask):
    """Weighs each sample by its index, and keeps what it was given and what it returned."""

    def __init__(self) -> None:
        super().__init__()
        self.given: list[ComputeLossContext] = []
        self.returned: list[ComputeLossResult] = []

    def compute_loss(self, ctx: ComputeLossContext) -> ComputeLossResult:
        result = ComputeLossResult(loss=super().compute_loss(ctx).loss, loss_weight=ctx.batch["index"].sum())
        self.given.append(ctx)
        self.returned.append(result)
        return result


def test_the_context_has_what_the_task_was_given_and_returned() -> None:
    """Batch and outputs are the objects that `compute_loss` got; loss and weight are those that it returned."""
    task = RememberingTask()
    trainer = configure_training(training_config(), task=task)
    seen: list[EventLossReadyContext] = []
    trainer.event_bus.subscribe(EVENT_TRAIN_LOSS_READY, seen.append)

    trainer.train()

    assert len(seen) == len(task.returned) == 6
    for ctx, given, returned in zip(seen, task.given, task.returned, strict=True):
        assert ctx.batch is given.batch
        assert ctx.outputs is given.outputs
        assert ctx.loss_weight is returned.loss_weight
        assert torch.equal(ctx.loss, returned.loss)
        assert ctx.stepper is trainer.stepper


def test_the_loss_is_detached() -> None:
    """A handler may keep the loss without keeping the graph of the step."""
    trainer = configure_training(training_config())
    losses: list[torch.Tensor] = []
    trainer.event_bus.subscribe(EVENT_TRAIN_LOSS_READY, lambda ctx: losses.append(ctx.loss))

    trainer.train()

    assert all(not loss.requires_grad and loss.grad_fn is None and loss.ndim == 0 for loss in losses)


def test_micro_batches_are_counted_within_the_step() -> None:
    """Their numbers start at 0 in each step."""
    trainer = configure_training(training_config())
    seen: list[tuple[int, int]] = []
    trainer.event_bus.subscribe(
        EVENT_TRAIN_LOSS_READY, lambda ctx: seen.append((ctx.stepper.current_step, ctx.micro_batch_index))
    )

    trainer.train()

    assert seen == [(step, number) for step in range(3) for number in range(2)]


def test_each_loss_is_ready_before_its_backward_pass() -> None:
    """Forward, loss and backward follow one another for each micro-batch, between the events around all of them."""
    trainer = configure_training(training_config(total_steps=1))
    order: list[str] = []
    trainer.modules[0].register_forward_hook(lambda *_: order.append("forward"))
    weight = next(trainer.modules[0].parameters())
    weight.register_post_accumulate_grad_hook(lambda _: order.append("backward"))  # type: ignore[no-untyped-call]
    bus = trainer.event_bus
    bus.subscribe(EVENT_TRAIN_FORWARD_BACKWARD_PRE, lambda ctx: order.append("pre"))
    bus.subscribe(EVENT_TRAIN_LOSS_READY, lambda ctx: order.append("loss"))
    bus.subscribe(EVENT_TRAIN_FORWARD_BACKWARD_POST, lambda ctx: order.append("post"))

    trainer.train()

    assert order == ["pre", *["forward", "loss", "backward"] * 2, "post"]


def test_a_handler_does_not_change_the_run() -> None:
    """A run with a handler ends with the same weights, bit for bit."""
    unheard = configure_training(training_config())
    unheard.train()
    heard = configure_training(training_config())
    losses: list[torch.Tensor] = []
    heard.event_bus.subscribe(EVENT_TRAIN_LOSS_READY, lambda ctx: losses.append(ctx.loss * ctx.loss_weight))
    heard.train()

    assert losses
    assert same_tensors(weights_of(heard.modules[0]), weights_of(unheard.modules[0]))


def test_a_loss_that_nobody_hears_builds_no_context(monkeypatch: pytest.MonkeyPatch) -> None:
    """The context is built only for a handler, also for one that subscribes during training."""
    built: list[int] = []

    def build(**fields: Any) -> EventLossReadyContext:
        built.append(fields["stepper"].current_step)
        return EventLossReadyContext(**fields)

    monkeypatch.setattr("d9d.loop.run.training.EventLossReadyContext", build)
    trainer = configure_training(training_config())

    for ctx in trainer.steps():
        if ctx.stepper.current_step == 2:
            trainer.event_bus.subscribe(EVENT_TRAIN_LOSS_READY, lambda ctx: None)

    assert built == [2, 2]


def test_a_failure_in_a_handler_names_the_event() -> None:
    """`last_event` of the failure is the loss, and the error names the event."""
    trainer = configure_training(training_config())
    last: list[str | None] = []

    def fail(ctx: EventLossReadyContext) -> None:
        raise StoppedError

    trainer.event_bus.subscribe(EVENT_TRAIN_LOSS_READY, fail)
    trainer.event_bus.subscribe(EVENT_TRAIN_FAILED, lambda ctx: last.append(ctx.last_event))

    with pytest.raises(StoppedError) as caught:
        trainer.train()
    assert last == ["train.loss.ready"]
    assert "train.loss.ready" in caught.value.__notes__[0]


def test_a_loss_that_is_no_scalar_is_refused_before_the_event() -> None:
    """A handler never sees a loss that the step cannot use."""

    class VectorTask(ToyTask):
        def compute_loss(self, ctx: ComputeLossContext) -> ComputeLossResult:
            return ComputeLossResult(loss=(ctx.outputs - ctx.batch["target"])[:, 0])

    trainer = configure_training(training_config(), task=VectorTask())
    seen: list[object] = []
    trainer.event_bus.subscribe(EVENT_TRAIN_LOSS_READY, seen.append)

    with pytest.raises(ValueError, match="a loss of shape"):
        trainer.train()
    assert seen == []


def test_hearing_losses_reads_no_value() -> None:
    """The event itself makes no step wait for the device."""
    trainer = configure_training(training_config(device="meta", non_finite_gradients="allow"))
    trainer.event_bus.subscribe(EVENT_TRAIN_LOSS_READY, lambda ctx: None)

    with readings("meta") as found:
        trainer.train()

    assert found == []


def test_the_mean_over_the_micro_batches_is_the_loss_of_the_step() -> None:
    """With the weights of the events, it is the loss that the loop reports."""
    trainer = configure(LAYOUTS["plain"], 1, ClassifyTask(), total_steps=2)
    of_steps = record_losses(trainer)
    weighted, weights = [torch.zeros(()), torch.zeros(())], [torch.zeros(()), torch.zeros(())]

    def add(ctx: EventLossReadyContext) -> None:
        step = ctx.stepper.current_step
        weighted[step] += ctx.loss.nan_to_num() * ctx.loss_weight
        weights[step] += ctx.loss_weight

    trainer.event_bus.subscribe(EVENT_TRAIN_LOSS_READY, add)
    trainer.train()

    assert len(of_steps) == 2
    for step, loss in enumerate(of_steps):
        torch.testing.assert_close(weighted[step] / weights[step], loss)
