"""Micro-batches without a single token or sample that counts, and losses that are given as sums."""

from typing import Any

import pytest
import torch

from d9d.loop.control import ComputeLossContext, ComputeLossResult
from d9d.loop.event.catalogue.train import EVENT_TRAIN_LOSS_READY, EventLossReadyContext

from .toy_job import ToyTask, configure_training, training_config, weights_of


class Masked(ToyTask):
    """Counts the samples whose index is at least eight, so that most micro-batches have none.

    Args:
        kind: How the loss is returned.
    """

    def __init__(self, kind: str) -> None:
        super().__init__()
        self._kind = kind

    def compute_loss(self, ctx: ComputeLossContext) -> ComputeLossResult:
        counted = (ctx.batch["index"] >= 8)[:, None].float()
        total, count = ((ctx.outputs - ctx.batch["target"]).square() * counted).sum(), counted.sum()
        match self._kind:
            case "clamped":
                return ComputeLossResult(loss=total / count.clamp(min=1), loss_weight=count)
            case "mean":
                return ComputeLossResult(loss=total / count, loss_weight=count)
            case "mean, weight on the host":
                return ComputeLossResult(loss=total / count, loss_weight=count.item())
            case "sum":
                return ComputeLossResult(loss_sum=total, loss_weight=count)
            case _:
                return ComputeLossResult(loss_sum=total, loss_weight=count.item())


def trained(kind: str) -> tuple[dict[str, torch.Tensor], list[tuple[float, float]]]:
    """Train, and return the weights, and the loss and the weight of each micro-batch."""
    heard: list[tuple[float, float]] = []
    trainer = configure_training(training_config(micro_batch_size=1), task=Masked(kind))

    def note(ctx: EventLossReadyContext) -> None:
        heard.append((float(ctx.loss), float(ctx.loss_weight)))

    trainer.event_bus.subscribe(EVENT_TRAIN_LOSS_READY, note)
    trainer.train()
    return weights_of(trainer.modules[0]), heard


@pytest.mark.parametrize("kind", ["mean", "mean, weight on the host", "sum", "sum, weight on the host"])
def test_a_micro_batch_of_weight_zero_contributes_nothing(kind: str) -> None:
    """Even if the task divides by its own number of samples, which is zero there."""
    expected, _ = trained("clamped")
    weights, _ = trained(kind)

    assert all(torch.isfinite(each).all() for each in weights.values())
    for name, each in weights.items():
        torch.testing.assert_close(each, expected[name])


@pytest.mark.parametrize("kind", ["sum", "sum, weight on the host"])
def test_a_sum_is_heard_as_the_mean(kind: str) -> None:
    """Handlers of the loss get the quotient, and 0 for a micro-batch of weight zero."""
    _, expected = trained("clamped")
    _, heard = trained(kind)

    assert [weight for _, weight in heard] == [weight for _, weight in expected]
    assert 0.0 in {weight for _, weight in heard}
    assert [loss for loss, _ in heard] == pytest.approx([loss for loss, _ in expected])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "needs either loss or loss_sum, and neither was given"),
        ({"loss": torch.ones(()), "loss_sum": torch.ones(()), "loss_weight": 1}, "and both was given"),
        ({"loss_sum": torch.ones(())}, "has loss_sum without loss_weight: pass the number of tokens"),
    ],
)
def test_a_result_has_a_mean_or_a_sum_with_its_weight(given: dict[str, Any], message: str) -> None:
    """Anything else would be ambiguous."""
    with pytest.raises(TypeError, match=message):
        ComputeLossResult(**given)


def test_the_mean_of_a_sum_is_detached() -> None:
    """It is for handlers and reports; the gradient is that of the sum."""
    total = torch.tensor(6.0, requires_grad=True)

    result = ComputeLossResult(loss_sum=total, loss_weight=torch.tensor(3))

    assert result.loss.item() == 2.0
    assert not result.loss.requires_grad
