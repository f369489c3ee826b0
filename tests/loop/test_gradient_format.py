"""Gradients of 16-bit parameters are accumulated in fp32 if `gradient_dtype="fp32"`."""

import pytest
import torch
from torch import nn

from d9d.core.protocol import OptimizerProtocol
from d9d.loop.component.gradients import (
    GradientAccumulator,
    GradientDtype,
    GradientNorm,
    clip_gradients,
    divide_gradients,
)
from d9d.loop.control import (
    BuildForwardInputsContext,
    BuildForwardInputsResult,
    ComputeLossContext,
    ComputeLossResult,
    InitializeModelStageContext,
    InitializeModelStageResult,
    InitializeOptimizerContext,
    OptimizerProvider,
)
from d9d.loop.event.catalogue.train import EVENT_TRAIN_OPTIMIZER_STEP_PRE

from .toy_job import ToyModelProvider, ToyTask, configure_training, cpu_context, training_config, weights_of

# The first gradient is so large that in bfloat16 adding any one of the others does not change the sum.
LOSSES = [1.0] + [1 / 512] * 512


class TwoDtypes(nn.Module):
    """Has one bfloat16 parameter and one fp32 parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.short = nn.Parameter(torch.ones(3, dtype=torch.bfloat16))
        self.long = nn.Parameter(torch.ones(3))

    def forward(self, factor: float) -> torch.Tensor:
        return (self.short.float().sum() + self.long.sum()) * factor


def accumulate(model: TwoDtypes, losses: list[float]) -> None:
    """Accumulate the gradients of several losses, without scaling them."""
    accumulator = GradientAccumulator(cpu_context())
    for loss in losses:
        torch.autograd.backward(accumulator.scale_loss(ComputeLossResult(loss=model(loss))))


def test_many_small_gradients_add_up() -> None:
    """In fp32 small gradients add up to a large sum; without the setting, bfloat16 rounds them away."""
    plain, configured = TwoDtypes(), TwoDtypes()
    GradientDtype([plain], None)
    GradientDtype([configured], "fp32")

    accumulate(plain, LOSSES)
    accumulate(configured, LOSSES)

    assert plain.short.grad is not None
    assert plain.short.grad.tolist() == [1.0] * 3
    assert configured.short.grad is not None
    assert configured.short.grad.tolist() == [2.0] * 3
    assert configured.long.grad is not None
    torch.testing.assert_close(configured.short.grad, configured.long.grad, rtol=0, atol=0)


def test_gradients_are_downcast_before_the_optimizer_step() -> None:
    """Gradients are rounded to the dtype of their parameter once per step; the next step accumulates in fp32 again."""
    model = TwoDtypes()
    gradient_upcast = GradientDtype([model], "fp32")
    for _ in range(2):
        gradient_upcast.upcast()
        accumulate(model, LOSSES)
        gradient_upcast.downcast()
        assert model.short.grad is not None
        assert model.short.grad.dtype == torch.bfloat16
        assert model.short.grad.tolist() == [2.0] * 3
        assert model.long.grad is not None
        assert model.long.grad.dtype == torch.float32
        model.zero_grad()


def test_frozen_parameters_have_no_gradient() -> None:
    """Downcasting gives a frozen 16-bit parameter no gradient."""
    model = TwoDtypes()
    model.short.requires_grad = False
    gradient_upcast = GradientDtype([model], "fp32")

    accumulator = GradientAccumulator(cpu_context())
    torch.autograd.backward(accumulator.scale_loss(ComputeLossResult(loss=model.long.sum())))
    gradient_upcast.downcast()

    assert model.short.grad is None


@pytest.mark.parametrize("is_joined", [False, True])
@pytest.mark.parametrize("weights", [(1.0, 3.0), (torch.tensor(1.0), torch.tensor(3.0))], ids=["host", "device"])
@pytest.mark.parametrize("gradient_dtype", [None, "fp32"])
def test_a_model_with_two_dtypes_is_scaled_and_clipped(
    gradient_dtype: str | None, weights: tuple[torch.Tensor | float, ...], *, is_joined: bool
) -> None:
    """16-bit and fp32 gradients are divided by the same total weight and clipped by the same norm, at once or not."""
    model = TwoDtypes()
    parameters = list(model.parameters())
    gradient_upcast = GradientDtype([model], gradient_dtype)  # type: ignore[arg-type] # one of both
    accumulator = GradientAccumulator(cpu_context())
    for weight in weights:
        torch.autograd.backward(accumulator.scale_loss(ComputeLossResult(loss=model(8.0), loss_weight=weight)))

    _, divisor = accumulator.finish()
    if is_joined:
        norm = GradientNorm(parameters, cpu_context()).measure() / divisor
        clip_gradients(parameters, norm, 1.0, divisor=divisor)
    else:
        divide_gradients(parameters, divisor)
        norm = GradientNorm(parameters, cpu_context()).measure()
        clip_gradients(parameters, norm, 1.0)
    gradient_upcast.downcast()

    assert norm.item() == pytest.approx(8 * 6**0.5)
    for parameter in parameters:
        assert parameter.grad is not None
        assert parameter.grad.dtype == parameter.dtype
        assert parameter.grad.tolist() == pytest.approx([1 / 6**0.5] * 3, rel=5e-3)


def test_split_backward_passes_accumulate_in_fp32() -> None:
    """Zero-bubble schedules compute weight gradients in a separate pass, which also accumulates in fp32."""
    model = TwoDtypes()
    GradientDtype([model], "fp32")
    for factor in LOSSES:
        product = model.short * torch.full((3,), factor, dtype=torch.bfloat16)
        node = product.grad_fn
        assert node is not None
        weight_node = node.next_functions[0][0]
        assert weight_node is not None
        (gradient,) = torch.autograd.grad(
            [torch.autograd.graph.GradientEdge(node, 0)],
            [torch.autograd.graph.GradientEdge(weight_node, 0)],
            grad_outputs=[torch.ones(3, dtype=torch.bfloat16)],
        )
        if model.short.grad is None:
            model.short.grad = gradient
        else:
            model.short.grad += gradient

    assert model.short.grad is not None
    assert model.short.grad.tolist() == [2.0] * 3


class HalfPrecisionProvider(ToyModelProvider):
    """Provides a model whose first layer is in bfloat16."""

    def initialize_model_stage(self, ctx: InitializeModelStageContext) -> InitializeModelStageResult:
        hidden, _, last = super().initialize_model_stage(ctx).model.children()
        return InitializeModelStageResult(model=nn.Sequential(hidden.bfloat16(), Upcast(), last))


class Upcast(nn.Module):
    """Converts its input to fp32."""

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return hidden.float()


class HalfPrecisionTask(ToyTask):
    """Feeds bfloat16 features."""

    def build_forward_inputs(self, ctx: BuildForwardInputsContext) -> BuildForwardInputsResult:
        return BuildForwardInputsResult(inputs={"input": ctx.batch["features"].bfloat16()})

    def compute_loss(self, ctx: ComputeLossContext) -> ComputeLossResult:
        return ComputeLossResult(loss=super().compute_loss(ctx).loss, loss_weight=torch.tensor(2.0))


def adamw(ctx: InitializeOptimizerContext) -> OptimizerProtocol:
    return torch.optim.AdamW(ctx.parameters(), fused=True)


def adamw_for_each(ctx: InitializeOptimizerContext) -> OptimizerProtocol:
    return torch.optim.AdamW(ctx.parameters(), foreach=False)


def adamw_foreach(ctx: InitializeOptimizerContext) -> OptimizerProtocol:
    return torch.optim.AdamW(ctx.parameters(), foreach=True)


def sgd(ctx: InitializeOptimizerContext) -> OptimizerProtocol:
    return torch.optim.SGD(ctx.parameters(), lr=0.1, momentum=0.9)


def adafactor(ctx: InitializeOptimizerContext) -> OptimizerProtocol:
    return torch.optim.Adafactor(ctx.parameters())


@pytest.mark.parametrize("optimizer", [adamw, adamw_for_each, adamw_foreach, sgd, adafactor])
def test_every_optimizer_gets_gradients_in_the_dtype_of_the_parameters(optimizer: OptimizerProvider) -> None:
    """Fused, foreach and plain optimizers train a model of two dtypes with `gradient_dtype="fp32"`."""
    trainer = configure_training(
        training_config(gradient_dtype="fp32"),
        task=HalfPrecisionTask(),
        model_provider=HalfPrecisionProvider(),
        optimizer_provider=optimizer,
    )
    initial = weights_of(trainer.modules[0])
    dtypes_match: list[bool] = []
    trainer.event_bus.subscribe(
        EVENT_TRAIN_OPTIMIZER_STEP_PRE,
        lambda ctx: dtypes_match.extend(
            w.grad.dtype == w.dtype for w in trainer.modules[0].parameters() if w.grad is not None
        ),
    )

    trainer.train()

    assert dtypes_match == [True] * 4 * 3
    final = weights_of(trainer.modules[0])
    assert [torch.equal(initial[name], final[name]) for name in initial] == [False] * 4


def test_the_setting_does_not_change_a_model_in_fp32() -> None:
    """A model without 16-bit parameters ends with bit-identical weights."""

    def trained(gradient_dtype: str | None) -> dict[str, torch.Tensor]:
        trainer = configure_training(training_config(gradient_dtype=gradient_dtype))
        trainer.train()
        return weights_of(trainer.modules[0])

    torch.testing.assert_close(trained("fp32"), trained(None), rtol=0, atol=0)
