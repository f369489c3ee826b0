"""Parameters that are unfrozen late, or are not in the optimizer, do not affect the others."""

import pytest
import torch
from torch import nn

from d9d.core.dist_context import DistributedContext
from d9d.core.protocol import OptimizerProtocol
from d9d.core.stepper import Stepper
from d9d.loop.component.gradients import Gradients
from d9d.loop.config import TrainingConfig
from d9d.loop.control import (
    BuildForwardInputsContext,
    BuildForwardInputsResult,
    ComputeLossContext,
    ComputeLossResult,
    InitializeModelStageContext,
    InitializeModelStageResult,
    InitializeOptimizerContext,
    ModelProvider,
)
from d9d.loop.event import EventBus
from d9d.loop.event.catalogue.train import (
    EVENT_TRAIN_OPTIMIZER_STEP_PRE,
    EVENT_TRAIN_READY,
    EventStepContext,
    EventTrainReadyContext,
)

from .toy_job import NUM_FEATURES, ToyTask, configure_training, same_tensors, training_config, weights_of


class TwoLayers(nn.Module):
    """Two linear layers, one of which may be frozen."""

    def __init__(self, *, is_first_frozen: bool = False) -> None:
        super().__init__()
        self.first = nn.Linear(NUM_FEATURES, 2).requires_grad_(not is_first_frozen)
        self.second = nn.Linear(2, 1)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        outputs: torch.Tensor = self.second(self.first(features))
        return outputs


class TwoLayersProvider(ModelProvider):
    """Provides two linear layers."""

    def __init__(self, *, is_first_frozen: bool = False) -> None:
        self._is_first_frozen = is_first_frozen

    def initialize_model_stage(self, ctx: InitializeModelStageContext) -> InitializeModelStageResult:
        return InitializeModelStageResult(model=TwoLayers(is_first_frozen=self._is_first_frozen))


class HeavyTask(ToyTask):
    """Gives each micro-batch a weight of a thousand."""

    def build_forward_inputs(self, ctx: BuildForwardInputsContext) -> BuildForwardInputsResult:
        return BuildForwardInputsResult(inputs={"features": ctx.batch["features"]})

    def compute_loss(self, ctx: ComputeLossContext) -> ComputeLossResult:
        return ComputeLossResult(loss=super().compute_loss(ctx).loss, loss_weight=1000.0)


def sgd_over_second(ctx: InitializeOptimizerContext) -> OptimizerProtocol:
    (model,) = ctx.modules
    assert isinstance(model, TwoLayers)
    return torch.optim.SGD(model.second.parameters(), lr=0.0)


def sgd_over_all(ctx: InitializeOptimizerContext) -> OptimizerProtocol:
    return torch.optim.SGD(ctx.parameters(), lr=0.1)


@pytest.mark.parametrize("is_first_frozen", [False, True])
def test_a_parameter_that_is_unfrozen_late_is_scaled_like_the_others(*, is_first_frozen: bool) -> None:
    """If a handler unfreezes it before the first step, it trains as if it had never been frozen."""

    def unfreeze(ctx: EventTrainReadyContext) -> None:
        trainer.modules[0].requires_grad_()

    def listen(bus: EventBus) -> None:
        bus.subscribe(EVENT_TRAIN_READY, unfreeze)

    results = []
    for provider in (TwoLayersProvider(), TwoLayersProvider(is_first_frozen=is_first_frozen)):
        trainer = configure_training(
            training_config(), task=HeavyTask(listen), model_provider=provider, optimizer_provider=sgd_over_all
        )
        trainer.train()
        results.append(weights_of(trainer.modules[0]))

    assert same_tensors(results[0], results[1])


def test_gradients_outside_the_optimizer_do_not_accumulate() -> None:
    """Each step clips only the gradients of that step."""
    norms: list[float] = []

    def note_norm(ctx: EventStepContext) -> None:
        assert isinstance(trainer.modules[0], TwoLayers)
        gradients = [parameter.grad for parameter in trainer.modules[0].first.parameters()]
        norms.append(torch.nn.utils.get_total_norm([grad for grad in gradients if grad is not None]).item())

    trainer = configure_training(
        training_config(total_steps=40, global_batch_size=12, micro_batch_size=12, max_gradient_norm=None),
        task=HeavyTask(lambda bus: bus.subscribe(EVENT_TRAIN_OPTIMIZER_STEP_PRE, note_norm)),
        model_provider=TwoLayersProvider(),
        optimizer_provider=sgd_over_second,
    )
    trainer.train()

    assert len(norms) == 40
    assert norms == pytest.approx(norms[:1] * 40)


class Counting(torch.optim.SGD):
    """Counts the calls of `zero_grad`."""

    num_calls = 0

    def zero_grad(self, set_to_none: bool = True) -> None:  # noqa: FBT001, FBT002 -- torch's own signature
        self.num_calls += 1
        super().zero_grad(set_to_none)


@pytest.mark.parametrize("optimizer_class", [torch.optim.SGD, Counting])
def test_gradients_of_parameters_outside_the_model_are_zeroed(
    optimizer_class: type[torch.optim.SGD],
) -> None:
    """Gradients of optimizer parameters outside the model, as of a learned loss, are zeroed by one `zero_grad` call."""
    inside, outside = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))
    optimizer = optimizer_class([outside], lr=0.1)
    torch.autograd.backward((inside * outside).sum())

    model = nn.Module()
    model.inside = inside
    config = TrainingConfig(total_steps=1, global_batch_size=1)
    context = DistributedContext.start("cpu")
    Gradients([model], optimizer=optimizer, config=config, stepper=Stepper(1), dist_context=context).zero()

    assert (inside.grad, outside.grad) == (None, None)
    assert getattr(optimizer, "num_calls", 1) == 1
