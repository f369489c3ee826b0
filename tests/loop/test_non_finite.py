"""Non-finite gradients are allowed, skipped, or stop the run, as `non_finite_gradients` says."""

import itertools
import signal
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from d9d.core.protocol import OptimizerProtocol
from d9d.loop.component.gradients import NonFiniteGradients, NonFiniteGradientsError
from d9d.loop.config import CheckpointingConfig, ConfigurationError
from d9d.loop.control import ComputeLossContext, ComputeLossResult, InitializeOptimizerContext, OptimizerProvider
from d9d.loop.event.catalogue.train import EVENT_TRAIN_STEP_POST, EVENT_TRAIN_STEP_PRE, EventStepContext
from d9d.loop.run import Trainer

from .toy_job import (
    ToyModelProvider,
    ToyTask,
    configure_training,
    cpu_context,
    same_tensors,
    states_after_steps,
    steps_saved,
    training_config,
    weights_of,
)

NAN, INFINITE = float("nan"), float("inf")


class FailingTask(ToyTask):
    """Computes losses that are not finite in some steps.

    Args:
        failing: The factor by which the loss of each of these steps is multiplied.
    """

    def __init__(self, failing: dict[int, float]) -> None:
        super().__init__()
        self._failing = failing

    def compute_loss(self, ctx: ComputeLossContext) -> ComputeLossResult:
        loss = super().compute_loss(ctx).loss
        return ComputeLossResult(loss=loss * self._failing.get(ctx.stepper.current_step, 1.0))


def fused(kind: type[torch.optim.Optimizer], **settings: Any) -> OptimizerProvider:
    def provide(ctx: InitializeOptimizerContext) -> OptimizerProtocol:
        return kind(ctx.parameters(), lr=0.01, fused=True, **settings)  # type: ignore[call-arg] # all kinds here

    return provide


FUSED = {
    "AdamW": fused(torch.optim.AdamW),
    "Adam": fused(torch.optim.Adam, amsgrad=True),
    "SGD": fused(torch.optim.SGD),
    "SGD with momentum": fused(torch.optim.SGD, momentum=0.9, weight_decay=0.1),
    "SGD with Nesterov momentum": fused(torch.optim.SGD, momentum=0.9, nesterov=True),
    "Adagrad": fused(torch.optim.Adagrad, lr_decay=0.1),
}


def trainer_of(failing: dict[int, float], optimizer: str = "AdamW", **settings: Any) -> Trainer:
    return configure_training(
        training_config(**{"total_steps": 8, **settings}),
        task=FailingTask(failing),
        optimizer_provider=FUSED[optimizer],
    )


@pytest.mark.parametrize("factor", [NAN, INFINITE])
@pytest.mark.parametrize("optimizer", FUSED)
def test_a_skipped_step_changes_nothing(optimizer: str, factor: float) -> None:
    """A skipped step, even the first, changes neither weights nor optimizer state; all other steps do."""
    trainer = trainer_of({0: factor, 3: factor, 4: factor}, optimizer, non_finite_gradients="skip")
    initial = weights_of(trainer.modules[0])

    states = states_after_steps(trainer)

    assert all(value.isfinite().all() for state in states for value in state.values())
    assert same_tensors({name: states[0][name] for name in initial}, initial)
    same = [same_tensors(before, after) for before, after in itertools.pairwise(states)]
    assert same == [False, False, True, True, False, False, False]
    assert trainer.num_skipped_steps is not None
    assert trainer.num_skipped_steps.item() == 3


class Gradients(nn.Module):
    """One parameter, whose gradients the test sets."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3))


@settings(deadline=None)
@given(st.lists(st.booleans(), min_size=1, max_size=8), st.sampled_from(sorted(FUSED)))
def test_skipping_equals_training_without_the_skipped_steps(are_finite: list[bool], optimizer: str) -> None:
    """The weights are bit-identical to those of a plain loop that takes only the finite steps."""
    model, reference = Gradients(), Gradients()
    ours, theirs = (_optimizer_of(each, optimizer) for each in (model, reference))
    trainer = configure_training(training_config(non_finite_gradients="skip"))
    guard = NonFiniteGradients(training_config(non_finite_gradients="skip"), ours, trainer.stepper)
    for index, is_finite in enumerate(are_finite):
        gradient = torch.tensor([index + 1.0, -1.0, 0.5])
        model.weight.grad = gradient if is_finite else gradient / 0
        guard.check_finite(model.weight.grad.norm())
        ours.step()
        if is_finite:
            reference.weight.grad = gradient
            theirs.step()

    assert torch.equal(model.weight, reference.weight)
    assert guard.num_skipped is not None
    assert guard.num_skipped.item() == are_finite.count(False)


def _optimizer_of(model: Gradients, optimizer: str) -> torch.optim.Optimizer:
    ctx = InitializeOptimizerContext(dist_context=cpu_context(), modules=[model])
    made = FUSED[optimizer](ctx)
    assert isinstance(made, torch.optim.Optimizer)
    return made


def test_the_policy_does_not_change_a_run_with_finite_gradients() -> None:
    """Weights and optimizer state are bit-identical under all three policies."""
    runs = [states_after_steps(trainer_of({}, non_finite_gradients=policy))[-1] for policy in ("allow", "skip", "stop")]

    assert same_tensors(runs[0], runs[1])
    assert same_tensors(runs[0], runs[2])


def test_skipping_works_without_gradient_clipping() -> None:
    """With `max_gradient_norm=None` a step with NaN gradients is still skipped."""
    trainer = trainer_of({2: NAN}, non_finite_gradients="skip", max_gradient_norm=None)

    trainer.train()

    assert all(weight.isfinite().all() for weight in trainer.modules[0].parameters())


def test_non_finite_gradients_are_applied_by_default() -> None:
    """By default a step with NaN gradients is taken, and the weights become NaN."""
    trainer = trainer_of({2: NAN})

    trainer.train()

    assert trainer.num_skipped_steps is None
    assert all(weight.isnan().all() for weight in trainer.modules[0].parameters())


@pytest.mark.parametrize(("factor", "shown"), [(NAN, "nan"), (INFINITE, "nan|inf")])
def test_a_run_stops_a_fixed_number_of_steps_later(factor: float, shown: str) -> None:
    """The error names the bad step, counted from 1; the bad step and all later ones are skipped."""
    trainer = trainer_of({2: factor}, total_steps=20, non_finite_gradients="stop")
    with pytest.raises(NonFiniteGradientsError, match=rf"gradient norm is ({shown}) in step 3, on all"):
        trainer.train()

    reference = trainer_of({}, total_steps=2)
    reference.train()
    assert trainer.stepper.current_step == 2 + 4
    assert same_tensors(weights_of(trainer.modules[0]), weights_of(reference.modules[0]))


@pytest.mark.parametrize("bad_step", [0, 1, 2, 3, 4, 5, 6, 7])
def test_no_checkpoint_is_saved_after_a_bad_step(bad_step: int, every_step: CheckpointingConfig) -> None:
    """If a checkpoint is due, the norms are checked first and the run stops before it is written."""
    checkpointing = every_step.model_copy(update={"period_steps": 3})
    trainer = trainer_of({bad_step: NAN}, checkpointing=checkpointing, non_finite_gradients="stop")

    with pytest.raises(NonFiniteGradientsError, match=f"in step {bad_step + 1},"):
        trainer.train()

    assert steps_saved(every_step.folder) == [step for step in (3, 6) if step <= bad_step]


def save_in_handler(trainer: Trainer) -> None:
    trainer.event_bus.subscribe(EVENT_TRAIN_STEP_PRE, lambda ctx: trainer.save())


def send_signal(trainer: Trainer) -> None:
    def send(ctx: EventStepContext) -> None:
        if ctx.stepper.current_step == 3:
            signal.raise_signal(signal.SIGTERM)

    trainer.event_bus.subscribe(EVENT_TRAIN_STEP_POST, send)


@pytest.mark.parametrize(
    ("schedule", "act", "saved"),
    [
        ({"period_steps": None, "period_minutes": 1e-9}, lambda trainer: None, [2]),
        ({"period_steps": None}, save_in_handler, [2]),
        ({"period_steps": None}, send_signal, []),
    ],
    ids=["by_minutes", "by_a_handler", "by_a_signal"],
)
def test_no_save_of_any_kind_contains_a_skipped_step(
    schedule: dict[str, Any], act: Callable[[Trainer], None], saved: list[int], every_step: CheckpointingConfig
) -> None:
    """Every save checks the norms first: the run raises, and a restart cannot finish without the skipped steps."""
    checkpointing = every_step.model_copy(update=schedule)
    trainer = trainer_of({2: NAN}, checkpointing=checkpointing, non_finite_gradients="stop")
    act(trainer)

    with pytest.raises(NonFiniteGradientsError, match="in step 3,"):
        trainer.train()

    assert steps_saved(every_step.folder) == saved


def test_the_last_step_is_checked() -> None:
    """With `stop`, a run whose last step has NaN gradients raises."""
    with pytest.raises(NonFiniteGradientsError, match="in step 8,"):
        trainer_of({7: NAN}, non_finite_gradients="stop").train()


def not_fused(ctx: InitializeOptimizerContext) -> OptimizerProtocol:
    return torch.optim.SGD(ctx.parameters(), lr=0.1)


@pytest.mark.parametrize("policy", ["skip", "stop"])
def test_an_optimizer_that_cannot_skip_on_the_device_is_refused(policy: str) -> None:
    """The error of an optimizer that is not fused names the optimizers and settings that work."""
    with pytest.raises(ConfigurationError) as raised:
        configure_training(training_config(non_finite_gradients=policy), optimizer_provider=not_fused)

    assert str(raised.value) == (
        f"non_finite_gradients='{policy}' needs an optimizer that can skip a step on the device, as AdamW, Adam, SGD "
        "and Adagrad of torch.optim can with fused=True. This SGD cannot: if it is one of them, create it with "
        "fused=True; otherwise use torch.optim.AdamW(…, fused=True), or set non_finite_gradients='allow'"
    )


def test_skipping_with_dampening_is_refused() -> None:
    """SGD with dampening is refused: torch decides on the host whether a step is the first, which has no dampening."""
    provider = fused(torch.optim.SGD, momentum=0.9, dampening=0.1)

    with pytest.raises(
        ConfigurationError, match="SGD cannot skip its first step if it has momentum and dampening: set d"
    ):
        configure_training(training_config(non_finite_gradients="skip"), optimizer_provider=provider)


def test_a_run_that_skips_steps_resumes_from_a_checkpoint(every_step: CheckpointingConfig) -> None:
    """The resumed run, with momentum from the checkpoint, ends with bit-identical weights."""

    def run(checkpointing: CheckpointingConfig | None, total_steps: int) -> Trainer:
        trainer = configure_training(
            training_config(checkpointing, total_steps=8, non_finite_gradients="skip"),
            task=FailingTask({0: NAN, 5: NAN}),
            model_provider=ToyModelProvider(),
            optimizer_provider=FUSED["SGD with momentum"],
        )
        if total_steps < 8:
            trainer.event_bus.subscribe(EVENT_TRAIN_STEP_POST, lambda ctx: _stop_after(ctx.stepper, total_steps))
        return trainer

    whole = run(None, 8)
    whole.train()
    with pytest.raises(KeyboardInterrupt):
        run(every_step, 3).train()
    resumed = run(every_step, 8)
    resumed.train()

    assert same_tensors(weights_of(resumed.modules[0]), weights_of(whole.modules[0]))


def _stop_after(stepper: Any, num_steps: int) -> None:
    if stepper.current_step == num_steps:
        raise KeyboardInterrupt
