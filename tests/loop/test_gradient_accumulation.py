"""The gradients accumulated over the micro-batches of a step are those of its weighted mean loss."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from d9d.core.protocol import OptimizerProtocol
from d9d.loop.component.gradients import GradientAccumulator, GradientNorm, clip_gradients, divide_gradients
from d9d.loop.control import (
    ComputeLossContext,
    ComputeLossResult,
    InitializeModelStageContext,
    InitializeModelStageResult,
    InitializeOptimizerContext,
    TrainTask,
)
from d9d.loop.event.catalogue.train import EVENT_TRAIN_OPTIMIZER_STEP_PRE

from .toy_job import ToyModelProvider, ToyTask, configure_training, cpu_context, training_config, weights_of


def add(accumulator: GradientAccumulator, result: ComputeLossResult) -> None:
    """Run the backward pass of one micro-batch, as the model runner does."""
    torch.autograd.backward(accumulator.scale_loss(result))


def finish(accumulator: GradientAccumulator, *parameters: nn.Parameter) -> torch.Tensor:
    """Scale the gradients of a step, and return its loss."""
    loss, divisor = accumulator.finish()
    divide_gradients(parameters, divisor)
    return loss


def sgd(ctx: InitializeOptimizerContext) -> OptimizerProtocol:
    """Build SGD."""
    return torch.optim.SGD(ctx.parameters(), lr=0.1)


class WithoutDropout(ToyModelProvider):
    """Provides the toy model without dropout, whose masks depend on the micro-batch size."""

    def initialize_model_stage(self, ctx: InitializeModelStageContext) -> InitializeModelStageResult:
        hidden, _, last = super().initialize_model_stage(ctx).model.children()
        return InitializeModelStageResult(model=nn.Sequential(hidden, last))


class UnevenTask(ToyTask):
    """Counts only samples with a positive target, so that micro-batches have different loss weights."""

    def compute_loss(self, ctx: ComputeLossContext) -> ComputeLossResult:
        counts = (ctx.batch["target"] > 0).float()
        errors = (ctx.outputs - ctx.batch["target"]).square() * counts
        return ComputeLossResult(loss=errors.sum() / counts.sum().clamp(min=1), loss_weight=counts.sum())


class SampleCountingTask(ToyTask):
    """Weights the loss by the number of samples, as a Python number."""

    def compute_loss(self, ctx: ComputeLossContext) -> ComputeLossResult:
        return ComputeLossResult(loss=super().compute_loss(ctx).loss, loss_weight=len(ctx.outputs))


class ConstantWeightTask(ToyTask):
    """Gives every micro-batch the same loss weight, such as zero."""

    def __init__(self, weight: torch.Tensor | float) -> None:
        super().__init__()
        self._weight = weight

    def compute_loss(self, ctx: ComputeLossContext) -> ComputeLossResult:
        return ComputeLossResult(loss=super().compute_loss(ctx).loss, loss_weight=self._weight)


def trained(task: TrainTask, **settings: Any) -> tuple[dict[str, torch.Tensor], list[float]]:
    """Train three steps without clipping, and return the weights and the norms of the gradients."""
    trainer = configure_training(
        training_config(max_gradient_norm=None, **settings),
        task=task,
        model_provider=WithoutDropout(),
        optimizer_provider=sgd,
    )
    norms: list[float] = []
    trainer.event_bus.subscribe(
        EVENT_TRAIN_OPTIMIZER_STEP_PRE,
        lambda ctx: norms.append(
            float(nn.utils.get_total_norm([w.grad for w in trainer.modules[0].parameters() if w.grad is not None]))
        ),
    )
    trainer.train()
    return weights_of(trainer.modules[0]), norms


@pytest.mark.parametrize("task", [ToyTask, UnevenTask, SampleCountingTask])
@pytest.mark.parametrize("micro_batch_size", [1, 2, 3])
def test_micro_batches_equal_one_large_batch(task: type[ToyTask], micro_batch_size: int) -> None:
    """Training gives the same weights and gradient norms for every micro-batch size."""
    whole, whole_norms = trained(task(), global_batch_size=6, micro_batch_size=None)
    cut, cut_norms = trained(task(), global_batch_size=6, micro_batch_size=micro_batch_size)

    assert min(whole_norms) > 0
    torch.testing.assert_close(cut, whole)
    assert cut_norms == pytest.approx(whole_norms)


@pytest.mark.parametrize("weight", [0.0, 0, torch.tensor(0.0), torch.tensor(0)], ids=repr)
def test_a_step_with_a_total_weight_of_zero_has_zero_gradients(weight: torch.Tensor | float) -> None:
    """If all loss weights of a step are zero, its gradients are zero, not NaN, and the model does not change."""
    weights, norms = trained(ConstantWeightTask(weight))
    initial, _ = trained(ConstantWeightTask(0.0), total_steps=1)

    assert norms == [0.0, 0.0, 0.0]
    torch.testing.assert_close(weights, initial, rtol=0, atol=0)


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.floats(-10, 10), st.just(0.0) | st.floats(0.01, 10)), min_size=1, max_size=6),
    st.sampled_from([float, torch.Tensor]),
)
def test_the_loss_of_a_step_is_the_weighted_mean(parts: list[tuple[float, float]], kind: type) -> None:
    """The loss is `sum(w_i * l_i) / sum(w_i)`, with the gradient of that; zero if all weights are zero."""
    parameter = nn.Parameter(torch.tensor(1.0, dtype=torch.float64))
    accumulator = GradientAccumulator(cpu_context())
    for loss, weight in parts:
        add(
            accumulator,
            ComputeLossResult(
                loss=parameter * loss,
                loss_weight=torch.tensor(weight, dtype=torch.float64) if kind is torch.Tensor else weight,
            ),
        )
    total = sum(weight for _, weight in parts)
    expected = sum(loss * weight for loss, weight in parts) / total if total else 0.0

    assert finish(accumulator, parameter).item() == pytest.approx(expected, rel=1e-5, abs=1e-9)
    assert parameter.grad is not None
    assert parameter.grad.item() == pytest.approx(expected, rel=1e-5, abs=1e-9)


def test_a_nan_loss_with_zero_weight_is_ignored() -> None:
    """A micro-batch with a NaN loss and a weight of zero changes neither the loss nor the gradients of the step."""
    parameter = nn.Parameter(torch.ones(3))
    accumulator = GradientAccumulator(cpu_context())
    ignored = torch.tensor([-100])

    def predict(target: torch.Tensor, weight: torch.Tensor | float) -> None:
        loss = nn.functional.cross_entropy(parameter[None], target)
        add(accumulator, ComputeLossResult(loss=loss, loss_weight=weight))

    predict(torch.tensor([1]), 2.0)
    predict(ignored, 0)
    predict(ignored, torch.tensor(0.0))

    assert finish(accumulator, parameter).item() == pytest.approx(torch.log(torch.tensor(3.0)).item())
    torch.testing.assert_close(parameter.grad, torch.tensor([1 / 3, -2 / 3, 1 / 3]))


def test_steps_do_not_leak_into_each_other() -> None:
    """The loss of a step does not depend on the step before."""
    parameter = nn.Parameter(torch.tensor(1.0))
    accumulator = GradientAccumulator(cpu_context())
    losses: list[float] = []
    for factor in (2.0, 3.0):
        add(accumulator, ComputeLossResult(loss=parameter * factor, loss_weight=4.0))
        losses.append(finish(accumulator, parameter).item())

    assert losses == [2.0, 3.0]


def test_a_step_without_micro_batches_is_an_error() -> None:
    """Finishing a step without micro-batches raises RuntimeError."""
    with pytest.raises(RuntimeError, match="no micro-batch was counted in this step"):
        GradientAccumulator(cpu_context()).finish()


def test_parameters_without_gradients_keep_none() -> None:
    """A parameter that the loss does not depend on still has no gradient after scaling and clipping."""
    used, unused = nn.Parameter(torch.tensor(1.0)), nn.Parameter(torch.tensor(1.0))
    accumulator = GradientAccumulator(cpu_context())
    add(accumulator, ComputeLossResult(loss=used * 3, loss_weight=2.0))
    finish(accumulator, used, unused)
    clip_gradients([used, unused], GradientNorm([used, unused], cpu_context()).measure(), 1.0)

    assert unused.grad is None
    assert used.grad is not None
    assert used.grad.item() == pytest.approx(1.0, rel=1e-5)


def gradients_clipped_to(max_norm: float) -> list[float]:
    """Clip gradients of 3 and 4, whose norm is 5."""
    parameters = [nn.Parameter(torch.zeros(())) for _ in range(2)]
    for parameter, gradient in zip(parameters, (3.0, 4.0), strict=True):
        parameter.grad = torch.tensor(gradient)
    clip_gradients(parameters, GradientNorm(parameters, cpu_context()).measure(), max_norm)
    return [parameter.grad.item() for parameter in parameters if parameter.grad is not None]


@pytest.mark.parametrize(("max_norm", "expected"), [(2.5, [1.5, 2.0]), (0.5, [0.3, 0.4]), (5.5, [3.0, 4.0])])
def test_gradients_are_scaled_down_to_the_bound(max_norm: float, expected: list[float]) -> None:
    """Gradients are clipped by their norm over all parameters, unless the norm is within the bound."""
    assert gradients_clipped_to(max_norm) == pytest.approx(expected, rel=1e-5)


def test_frozen_parameters_are_not_trained() -> None:
    """A frozen layer keeps its weights while the other layer is trained."""

    class FrozenProvider(ToyModelProvider):
        def initialize_model_stage(self, ctx: InitializeModelStageContext) -> InitializeModelStageResult:
            result = super().initialize_model_stage(ctx)
            next(result.model.children()).requires_grad_(requires_grad=False)
            return result

    trainer = configure_training(training_config(), model_provider=FrozenProvider())
    initial = weights_of(trainer.modules[0])
    trainer.train()
    final = weights_of(trainer.modules[0])

    assert [torch.equal(initial[name], final[name]) for name in initial] == [True, True, False, False]
