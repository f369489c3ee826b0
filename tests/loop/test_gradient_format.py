"""Gradients of parameters of 16 bits are gathered in fp32, if so configured."""

import pytest
import torch
from torch import nn

from d9d.core.protocol import OptimizerProtocol
from d9d.loop.component.gradients import GradientAccumulator, GradientClipper, GradientDtype
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

# The first gradient is so large that in 16 bits none of the others, alone, changes the sum.
LOSSES = [1.0] + [1 / 512] * 512


class OneWeight(nn.Module):
    """Has one parameter of 16 bits, and one of 32."""

    def __init__(self) -> None:
        super().__init__()
        self.short = nn.Parameter(torch.ones(3, dtype=torch.bfloat16))
        self.long = nn.Parameter(torch.ones(3))

    def forward(self, factor: float) -> torch.Tensor:
        return (self.short.float().sum() + self.long.sum()) * factor


def gather(model: OneWeight, losses: list[float]) -> None:
    """Gather the gradients of a sum of losses, without dividing them."""
    accumulator = GradientAccumulator(list(model.parameters()), cpu_context())
    for loss in losses:
        torch.autograd.backward(accumulator.scale_loss(ComputeLossResult(loss=model(loss))))


def test_many_small_gradients_add_up() -> None:
    """As they do in one process with fp32 parameters; without the setting, they are lost beside a large one."""
    plain, configured = OneWeight(), OneWeight()
    GradientDtype([plain], None)
    GradientDtype([configured], "fp32")

    gather(plain, LOSSES)
    gather(configured, LOSSES)

    assert plain.short.grad is not None
    assert plain.short.grad.tolist() == [1.0] * 3
    assert configured.short.grad is not None
    assert configured.short.grad.tolist() == [2.0] * 3
    assert configured.long.grad is not None
    torch.testing.assert_close(configured.short.grad, configured.long.grad, rtol=0, atol=0)


def test_the_optimizer_gets_the_format_of_the_parameters() -> None:
    """Rounded once, at the end; the next step gathers in fp32 again."""
    model = OneWeight()
    gradient_upcast = GradientDtype([model], "fp32")
    for _ in range(2):
        gradient_upcast.upcast()
        gather(model, LOSSES)
        gradient_upcast.downcast()
        assert model.short.grad is not None
        assert model.short.grad.dtype == torch.bfloat16
        assert model.short.grad.tolist() == [2.0] * 3
        assert model.long.grad is not None
        assert model.long.grad.dtype == torch.float32
        model.zero_grad()


def test_parameters_without_gradients_keep_none() -> None:
    """Those that are frozen, too."""
    model = OneWeight()
    model.short.requires_grad = False
    gradient_upcast = GradientDtype([model], "fp32")

    gather_long = GradientAccumulator([model.long], cpu_context())
    torch.autograd.backward(gather_long.scale_loss(ComputeLossResult(loss=model.long.sum())))
    gradient_upcast.downcast()

    assert model.short.grad is None


@pytest.mark.parametrize("gradient_dtype", [None, "fp32"])
def test_both_formats_in_one_model_are_divided_and_clipped(gradient_dtype: str | None) -> None:
    """By the same numbers."""
    model = OneWeight()
    gradient_upcast = GradientDtype([model], gradient_dtype)  # type: ignore[arg-type] # one of both
    accumulator = GradientAccumulator(list(model.parameters()), cpu_context())
    for weight in (1.0, 3.0):
        torch.autograd.backward(
            accumulator.scale_loss(ComputeLossResult(loss=model(8.0), loss_weight=torch.tensor(weight)))
        )

    accumulator.finish()
    norm = GradientClipper(list(model.parameters()), 1.0, cpu_context()).clip()
    gradient_upcast.downcast()

    assert norm is not None
    assert norm.item() == pytest.approx(8 * 6**0.5)
    for parameter in model.parameters():
        assert parameter.grad is not None
        assert parameter.grad.dtype == parameter.dtype
        assert parameter.grad.tolist() == pytest.approx([1 / 6**0.5] * 3, rel=5e-3)


def test_backward_passes_in_two_halves_gather_in_fp32() -> None:
    """As zero-bubble schedules run them: first for the inputs, later for the weights."""
    model = OneWeight()
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


class ShortProvider(ToyModelProvider):
    """Brings a model whose first layer has 16 bits."""

    def initialize_model_stage(self, ctx: InitializeModelStageContext) -> InitializeModelStageResult:
        hidden, _, last = super().initialize_model_stage(ctx).model.children()
        return InitializeModelStageResult(model=nn.Sequential(hidden.bfloat16(), Widen(), last))


class Widen(nn.Module):
    """Hands short numbers on as long ones."""

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return hidden.float()


class ShortTask(ToyTask):
    """Feeds short numbers."""

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
def test_every_optimizer_takes_what_it_gets(optimizer: OptimizerProvider) -> None:
    """Fused or not: no optimizer sees two formats of one parameter."""
    trainer = configure_training(
        training_config(gradient_dtype="fp32"),
        task=ShortTask(),
        model_provider=ShortProvider(),
        optimizer_provider=optimizer,
    )
    initial = weights_of(trainer.modules[0])
    formats: list[bool] = []
    trainer.event_bus.subscribe(
        EVENT_TRAIN_OPTIMIZER_STEP_PRE,
        lambda ctx: formats.extend(
            w.grad.dtype == w.dtype for w in trainer.modules[0].parameters() if w.grad is not None
        ),
    )

    trainer.train()

    assert formats == [True] * 4 * 3
    final = weights_of(trainer.modules[0])
    assert [torch.equal(initial[name], final[name]) for name in initial] == [False] * 4


def test_a_model_without_short_parameters_is_left_alone() -> None:
    """To the bit."""

    def trained(gradient_dtype: str | None) -> dict[str, torch.Tensor]:
        trainer = configure_training(training_config(gradient_dtype=gradient_dtype))
        trainer.train()
        return weights_of(trainer.modules[0])

    torch.testing.assert_close(trained("fp32"), trained(None), rtol=0, atol=0)
