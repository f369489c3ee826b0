"""Learning rate schedules with warm-up and decay."""

import math
import pickle
import re
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from d9d.loop.component import LRSchedule, OptimizerBuilder, ParameterGroup
from d9d.loop.component.optim import REMAINDERS, DecayShape, LRFactor
from d9d.loop.config import CheckpointingConfig, ConfigurationError
from d9d.loop.control import InitializeLRSchedulerContext, InitializeOptimizerContext
from d9d.loop.event import EventBus
from d9d.loop.event.catalogue.train import EVENT_TRAIN_OPTIMIZER_STEP_PRE, EVENT_TRAIN_STEP_POST, EventStepContext

from .toy_job import (
    StoppedError,
    ToyTask,
    configure_training,
    cpu_context,
    same_tensors,
    training_config,
    weights_of,
)


def rates(schedule: LRSchedule, total_steps: int) -> list[float]:
    """Return the factors of all steps of a run, and of the step after the last one."""
    factor = schedule.factor(total_steps)
    return [factor(step) for step in range(total_steps + 1)]


def test_a_linear_schedule_rises_and_decays_linearly() -> None:
    """Neither the first nor the last step has a learning rate of zero."""
    assert rates(LRSchedule.linear(warmup_steps=2), 6) == [0.5, 1.0, 1.0, 0.75, 0.5, 0.25, 0.0]


def test_a_cosine_schedule_decays_along_half_a_cosine() -> None:
    """After half of the steps it is halfway."""
    assert rates(LRSchedule.cosine(warmup_steps=1, final_fraction=0.5), 5) == pytest.approx(
        [1.0, 1.0, 0.75 + 0.25 * math.sqrt(0.5), 0.75, 0.75 - 0.25 * math.sqrt(0.5), 0.5]
    )


def test_a_wsd_schedule_is_constant_until_the_last_steps() -> None:
    """Its decay is steep at first."""
    assert rates(LRSchedule.wsd(warmup_steps=2, decay_steps=4, final_fraction=0.2), 8) == pytest.approx(
        [0.5, 1.0, 1.0, 1.0, 1.0, 0.6, 1 - 0.8 * math.sqrt(0.5), 1 - 0.8 * math.sqrt(0.75), 0.2]
    )


def test_a_wsd_schedule_decays_in_any_shape() -> None:
    """Linearly, for example."""
    schedule = LRSchedule.wsd(decay_steps=2, shape="linear")

    assert rates(schedule, 4) == [1.0, 1.0, 1.0, 0.5, 0.0]


def test_without_warm_up_the_first_step_has_the_peak_rate() -> None:
    """By default there is no warm-up."""
    assert rates(LRSchedule.linear(), 2) == [1.0, 0.5, 0.0]


def test_the_rate_is_constant_after_the_decay() -> None:
    """Also in steps beyond the run."""
    factor = LRSchedule.cosine(final_fraction=0.1).factor(10)

    assert factor(10) == factor(1000) == 0.1


@st.composite
def fitted(draw: st.DrawFn) -> tuple[LRSchedule, int, LRFactor]:
    """Draw a schedule, and the length of a run that is long enough for it."""
    warmup_steps = draw(st.integers(0, 50))
    decay_steps = draw(st.none() | st.integers(1, 50))
    shape: DecayShape = draw(st.sampled_from(["linear", "cosine", "1-sqrt"]))
    schedule = LRSchedule(
        shape=shape, warmup_steps=warmup_steps, decay_steps=decay_steps, final_fraction=draw(st.floats(0, 1))
    )
    total_steps = warmup_steps + (decay_steps or 1) + draw(st.integers(0, 50))
    return schedule, total_steps, schedule.factor(total_steps)


@settings(deadline=None)
@given(fitted())
def test_every_schedule_rises_is_constant_and_decays(drawn: tuple[LRSchedule, int, LRFactor]) -> None:
    """Within the run it is in (0, 1]; in the step after the last one it is `final_fraction`."""
    schedule, total_steps, factor = drawn
    factors = [factor(step) for step in range(total_steps + 1)]
    rising, staying = factors[: schedule.warmup_steps], factors[schedule.warmup_steps : factor.decay_start + 1]
    falling = factors[factor.decay_start :]

    assert rising == sorted(rising)
    assert set(staying) == {1.0}
    assert falling == sorted(falling, reverse=True)
    assert factors[-1] == schedule.final_fraction
    assert all(0 < value <= 1 for value in factors[:-1])


@settings(deadline=None)
@given(fitted())
def test_a_factor_can_be_pickled(drawn: tuple[LRSchedule, int, LRFactor]) -> None:
    """The unpickled factor is equal."""
    factor = drawn[2]

    assert pickle.loads(pickle.dumps(factor)) == factor  # noqa: S301 -- its own


@settings(deadline=None)
@given(st.integers(0, 30), st.none() | st.integers(1, 30), st.integers(1, 40))
def test_the_error_of_a_schedule_that_does_not_fit_names_numbers_that_do(
    warmup_steps: int, decay_steps: int | None, total_steps: int
) -> None:
    """Changing any one of them is enough."""
    numbers: dict[str, Any] = {"warmup_steps": warmup_steps, "decay_steps": decay_steps}
    try:
        LRSchedule(shape="linear", **numbers).factor(total_steps)
    except ConfigurationError as error:
        remedies = re.findall(r"(\w+) of at (?:least|most) (\d+)", str(error))
        assert remedies[-1][0] == "total_steps"
        for name, number in remedies:
            changed = {**numbers, "total_steps": total_steps, name: int(number)}
            length = changed.pop("total_steps")
            LRSchedule(shape="linear", **changed).factor(length)
    else:
        assert warmup_steps + (decay_steps or 1) <= total_steps


@pytest.mark.parametrize(
    ("schedule", "found", "remedy"),
    [
        (
            LRSchedule.cosine(warmup_steps=3),
            "warmup_steps=3 and at least 1 step of decay",
            "warmup_steps of at most 2, or total_steps of at least 4",
        ),
        (
            LRSchedule.wsd(warmup_steps=2, decay_steps=2),
            "warmup_steps=2 and decay_steps=2",
            "decay_steps of at most 1, or warmup_steps of at most 1, or total_steps of at least 4",
        ),
        (
            LRSchedule.wsd(warmup_steps=5, decay_steps=7),
            "warmup_steps=5 and decay_steps=7",
            "total_steps of at least 12",
        ),
    ],
    ids=["cosine", "wsd", "wsd-of-another-run"],
)
def test_configure_refuses_a_run_that_is_too_short(schedule: LRSchedule, found: str, remedy: str) -> None:
    """The error names the numbers found and those that would work."""
    with pytest.raises(ConfigurationError, match=f"^{found} do not fit into total_steps=3: use {remedy}$"):
        configure_training(training_config(total_steps=3), lr_scheduler_provider=schedule)


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ({"warmup_steps": -1}, "warmup_steps is -1: it must be at least 0"),
        ({"decay_steps": 0}, "decay_steps is 0: it must be at least 1, or None for all steps after the warm-up"),
        ({"final_fraction": 1.5}, "final_fraction is 1.5: it must be between 0.0 and 1.0"),
        ({"final_fraction": math.nan}, "final_fraction is nan: it must be between 0.0 and 1.0"),
        ({"shape": "sine"}, "shape is 'sine': choose one of 'linear', 'cosine', '1-sqrt'"),
    ],
)
def test_a_number_out_of_range_is_refused_by_the_constructor(numbers: dict[str, Any], message: str) -> None:
    """The error names the valid range."""
    with pytest.raises(ConfigurationError, match=f"^{re.escape(message)}$"):
        LRSchedule(**{"shape": "linear", **numbers})


def test_each_shape_goes_from_1_to_0() -> None:
    """So shapes are interchangeable."""
    assert {(remainder(0.0), remainder(1.0)) for remainder in REMAINDERS.values()} == {(1.0, 0.0)}


def is_bias(name: str, parameter: nn.Parameter) -> bool:
    return name.endswith("bias")


TWO_GROUPS = OptimizerBuilder(torch.optim.AdamW, lr=0.1, groups=[ParameterGroup(is_bias, lr=0.01)])


def test_the_rates_of_all_groups_follow_the_schedule() -> None:
    """Each group has its own peak."""
    seen: list[list[float]] = []

    def note(ctx: EventStepContext) -> None:
        assert isinstance(trainer.optimizer, torch.optim.Optimizer)
        seen.append([group["lr"] for group in trainer.optimizer.param_groups])

    trainer = configure_training(
        training_config(total_steps=4),
        task=ToyTask(lambda bus: bus.subscribe(EVENT_TRAIN_OPTIMIZER_STEP_PRE, note)),
        optimizer_provider=TWO_GROUPS,
        lr_scheduler_provider=LRSchedule.linear(warmup_steps=2),
    )
    trainer.train()

    assert seen == [pytest.approx([0.1 * factor, 0.01 * factor]) for factor in (0.5, 1.0, 1.0, 0.5)]


def test_a_rate_that_is_a_tensor_follows_the_schedule() -> None:
    """It is updated in place, as captured and compiled optimizers need it."""
    rate = torch.tensor(0.5)
    optimizer = torch.optim.AdamW([nn.Parameter(torch.zeros(2))], lr=rate)
    context = InitializeLRSchedulerContext(dist_context=cpu_context(), optimizer=optimizer, total_steps=4)

    LRSchedule.linear(warmup_steps=2)(context)

    assert optimizer.param_groups[0]["lr"] is rate
    assert rate.item() == 0.25


WSD = LRSchedule.wsd(warmup_steps=2, decay_steps=3)


@pytest.mark.parametrize(
    ("schedule", "stopped_in"),
    [
        pytest.param(WSD, {1, 5}, id="wsd"),
        *(
            pytest.param(schedule, set(range(7)), id=f"{schedule.shape} in each step", marks=pytest.mark.slow)
            for schedule in (
                LRSchedule.linear(warmup_steps=2),
                LRSchedule.cosine(warmup_steps=2, final_fraction=0.1),
                WSD,
            )
        ),
    ],
)
def test_a_resumed_run_ends_like_an_uninterrupted_one(
    schedule: LRSchedule, stopped_in: set[int], every_step: CheckpointingConfig
) -> None:
    """With the same weights, bit for bit."""
    undisturbed = configure_training(
        training_config(total_steps=7), optimizer_provider=TWO_GROUPS, lr_scheduler_provider=schedule
    )
    undisturbed.train()

    def listen(bus: EventBus) -> None:
        bus.subscribe(EVENT_TRAIN_STEP_POST, stop_once)

    left = set(stopped_in)

    def stop_once(ctx: EventStepContext) -> None:
        if ctx.stepper.current_step in left:
            left.remove(ctx.stepper.current_step)
            raise StoppedError

    for _ in stopped_in:
        with pytest.raises(StoppedError):
            configure_training(
                training_config(every_step, total_steps=7),
                task=ToyTask(listen),
                optimizer_provider=TWO_GROUPS,
                lr_scheduler_provider=schedule,
            ).train()
    resumed = configure_training(
        training_config(every_step, total_steps=7), optimizer_provider=TWO_GROUPS, lr_scheduler_provider=schedule
    )
    resumed.train()

    assert left == set()
    assert same_tensors(weights_of(undisturbed.modules[0]), weights_of(resumed.modules[0]))


class Wrapper:
    """An optimizer that is not a `torch.optim.Optimizer`."""

    def __init__(self, ctx: InitializeOptimizerContext) -> None:
        self._inner = torch.optim.SGD(ctx.parameters(), lr=0.1)

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        return self._inner.param_groups

    def step(self) -> None:
        self._inner.step()

    def zero_grad(self) -> None:
        self._inner.zero_grad()

    def state_dict(self) -> dict[str, Any]:
        return self._inner.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any], /) -> None:
        self._inner.load_state_dict(state_dict)


def test_a_schedule_needs_an_optimizer_of_torch() -> None:
    """Without a schedule any optimizer that fits the protocol works. The error says what to do."""
    configure_training(training_config(), optimizer_provider=Wrapper).train()

    with pytest.raises(TypeError, match=r"the optimizer is a Wrapper, and .* or pass an lr_scheduler_provider that"):
        configure_training(training_config(), optimizer_provider=Wrapper, lr_scheduler_provider=LRSchedule.linear())
