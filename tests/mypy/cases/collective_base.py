"""What the cases of d9d-collective import."""

from collections.abc import Callable
from typing import Any

from torch import distributed


def wait_for_all() -> None:
    # E[d9d-host-sync]: Handler "reached_through_functions" of EVENT_TRIAL_ROUND_POST ("trial.round.post") calls
    #   "barrier" in every step, so each step waits for the device: do it only every N steps, as under "if
    #   ctx.stepper.is_due(N):", or leave it out: collectives on tensors need no waiting of the host
    distributed.barrier()


class Saver:
    def receive(self) -> None: ...

    def later(self, action: Callable[[], Any]) -> None: ...
