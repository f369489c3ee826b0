"""What the cases of d9d-host-sync import."""

# ruff: noqa: T201 - what is printed is what the cases are about

from collections.abc import Callable
from typing import TypeVar

from lab.events.trial import EVENT_TRIAL_ROUND_POST, EventRoundContext

from d9d.loop.event import subscribe

TFunction = TypeVar("TFunction", bound=Callable[..., None])


def every(period: int) -> Callable[[TFunction], TFunction]:
    raise NotImplementedError


class Average:
    def on_step(self, ctx: EventRoundContext) -> None:
        # E[d9d-host-sync]: Handler "on_step" of EVENT_TRIAL_ROUND_POST ("trial.round.post") prints a tensor in every
        #   step, so each step waits for the device: do it only every N steps, as under "if ctx.stepper.is_due(N):", or
        #   keep the tensor on the device with ".detach()"
        print(ctx.losses)


@subscribe(EVENT_TRIAL_ROUND_POST)
def wrong_where_it_is_defined(ctx: EventRoundContext) -> None:
    # E[d9d-host-sync]: Handler "wrong_where_it_is_defined" of EVENT_TRIAL_ROUND_POST ("trial.round.post") prints a
    #   tensor in every step, so each step waits for the device: do it only every N steps, as under "if
    #   ctx.stepper.is_due(N):", or keep the tensor on the device with ".detach()"
    print(ctx.losses)


def on_step_elsewhere(ctx: EventRoundContext) -> None:
    # E[d9d-host-sync]: Handler "on_step_elsewhere" of EVENT_TRIAL_ROUND_POST ("trial.round.post") prints a tensor in
    #   every step, so each step waits for the device: do it only every N steps, as under "if ctx.stepper.is_due(N):",
    #   or keep the tensor on the device with ".detach()"
    print(ctx.losses)
