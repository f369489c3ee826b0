"""Handlers of events that happen in every step, which read tensors on the device."""

# ruff: noqa: C901, FBT001, PLR0912, PLW0108, RUF012, T201 - wrong on purpose, or right in many shapes

import dataclasses
import functools
import logging
import time
from collections.abc import Callable
from typing import Any

import torch
from host_sync_base import Average, every, on_step_elsewhere
from lab.events.trial import EVENT_TRIAL_READY, EVENT_TRIAL_ROUND_POST, EventRoundContext, EventTrialReadyContext
from own_events import EVENT_SAVED_ELSEWHERE, SavedElsewhereContext
from torch import Tensor, distributed, nn

from d9d.loop.event import EventBus, subscribe
from d9d.loop.event.catalogue.train import (
    EVENT_TRAIN_MODEL_STAGES_READY,
    EVENT_TRAIN_STEP_POST,
    EVENT_TRAIN_STEP_PRE,
    EventModelStagesReadyContext,
    EventStepContext,
)

logger = logging.getLogger(__name__)


# docs: d9d-host-sync
class WrongLossLog:
    losses: list[float] = []

    @subscribe(EVENT_TRIAL_ROUND_POST)
    def log_loss(self, ctx: EventRoundContext) -> None:
        # E[d9d-host-sync]: Handler "log_loss" of EVENT_TRIAL_ROUND_POST ("trial.round.post") calls ".item()" on a
        #   tensor in every step, so each step waits for the device: do it only every N steps, as under "if
        #   ctx.stepper.is_due(N):", or keep the tensor on the device with ".detach()"
        self.losses.append(ctx.losses.mean().item())


class RightLossLog:
    losses: list[Tensor] = []

    @subscribe(EVENT_TRIAL_ROUND_POST)
    def log_loss(self, ctx: EventRoundContext) -> None:
        self.losses.append(ctx.losses.mean().detach())
        if ctx.index % 100 == 0:
            logger.info("mean loss %f", torch.stack(self.losses).mean().item())
            self.losses.clear()


# docs: end


class DeclaredFields:
    @subscribe(EVENT_TRIAL_ROUND_POST)
    def note(self, ctx: EventRoundContext) -> None:
        logger.info("%f", float(ctx.answer))
        if ctx.counts is not None:
            logger.info("on the host: %f of %s", ctx.counts.mean().item(), ctx.counts.tolist())


class WrongCalls:
    @subscribe(EVENT_TRIAL_ROUND_POST)
    def wrong(self, ctx: EventRoundContext) -> None:
        # E[d9d-host-sync]: Handler "wrong" of EVENT_TRIAL_ROUND_POST ("trial.round.post") calls ".tolist()" on a tensor
        #   in every step, so each step waits for the device: do it only every N steps, as under "if
        #   ctx.stepper.is_due(N):", or keep the tensor on the device with ".detach()"
        ctx.losses.tolist()
        # E[d9d-host-sync]: Handler "wrong" of EVENT_TRIAL_ROUND_POST ("trial.round.post") calls ".cpu()" on a tensor in
        #   every step, so each step waits for the device: do it only every N steps, as under "if
        #   ctx.stepper.is_due(N):", or keep the tensor on the device with ".detach()"
        ctx.losses.cpu()
        # E[d9d-host-sync]: Handler "wrong" of EVENT_TRIAL_ROUND_POST ("trial.round.post") calls ".numpy()" on a tensor
        #   in every step, so each step waits for the device: do it only every N steps, as under "if
        #   ctx.stepper.is_due(N):", or keep the tensor on the device with ".detach()"
        ctx.losses.numpy()
        # E[d9d-host-sync]: Handler "wrong" of EVENT_TRIAL_ROUND_POST ("trial.round.post") prints a tensor in every
        #   step, so each step waits for the device: do it only every N steps, as under "if ctx.stepper.is_due(N):", or
        #   keep the tensor on the device with ".detach()"
        print(ctx.index, ctx.losses)
        # E[d9d-host-sync]: Handler "wrong" of EVENT_TRIAL_ROUND_POST ("trial.round.post") formats a tensor in every
        #   step, so each step waits for the device: do it only every N steps, as under "if ctx.stepper.is_due(N):", or
        #   keep the tensor on the device with ".detach()"
        print(f"step {ctx.index}: {ctx.losses.mean():.3f}")
        # E[d9d-host-sync]: Handler "wrong" of EVENT_TRIAL_ROUND_POST ("trial.round.post") calls "float()" on a tensor
        #   in every step, so each step waits for the device: do it only every N steps, as under "if
        #   ctx.stepper.is_due(N):", or keep the tensor on the device with ".detach()"
        logger.info("loss %f", float(ctx.losses.mean()))
        # E[d9d-host-sync]: Handler "wrong" of EVENT_TRIAL_ROUND_POST ("trial.round.post") calls ".cpu()" on a tensor in
        #   every step, so each step waits for the device: do it only every N steps, as under "if
        #   ctx.stepper.is_due(N):", or keep the tensor on the device with ".detach()"
        host = ctx.losses.cpu()
        print(host.mean().item(), host.tolist(), host.numpy())
        loss = ctx.losses.mean()
        # E[d9d-host-sync]: Handler "wrong" of EVENT_TRIAL_ROUND_POST ("trial.round.post") calls ".item()" on a tensor
        #   in every step, so each step waits for the device: do it only every N steps, as under "if
        #   ctx.stepper.is_due(N):", or keep the tensor on the device with ".detach()"
        total = sum(each.item() for each in (loss, loss))
        logger.info("%f", total)

    @subscribe(EVENT_TRIAL_ROUND_POST)
    @torch.no_grad()
    def wrong_truth(self, ctx: EventRoundContext) -> None:
        loss = ctx.losses.mean()
        # E[d9d-host-sync]: Handler "wrong_truth" of EVENT_TRIAL_ROUND_POST ("trial.round.post") tests whether a tensor
        #   is true in every step, so each step waits for the device: do it only every N steps, as under "if
        #   ctx.stepper.is_due(N):", or leave the choice to the device, as with torch.where
        if loss > 3:
            logger.warning("a large loss: %f", loss.item())
        # E[d9d-host-sync]: Handler "wrong_truth" of EVENT_TRIAL_ROUND_POST ("trial.round.post") tests whether a tensor
        #   is true in every step, so each step waits for the device: do it only every N steps, as under "if
        #   ctx.stepper.is_due(N):", or leave the choice to the device, as with torch.where
        assert loss.isfinite().all(), f"{loss.item()}"
        # E[d9d-host-sync]: Handler "wrong_truth" of EVENT_TRIAL_ROUND_POST ("trial.round.post") tests whether a tensor
        #   is true in every step, so each step waits for the device: do it only every N steps, as under "if
        #   ctx.stepper.is_due(N):", or leave the choice to the device, as with torch.where
        if distributed.get_rank() == 0 and not loss.isfinite():
            raise RuntimeError(f"the loss is {loss.item()}")
        # E[d9d-host-sync]: Handler "wrong_truth" of EVENT_TRIAL_ROUND_POST ("trial.round.post") tests whether a tensor
        #   is true in every step, so each step waits for the device: do it only every N steps, as under "if
        #   ctx.stepper.is_due(N):", or leave the choice to the device, as with torch.where
        worse = 1 if loss > 3 else 0
        # E[d9d-host-sync]: Handler "wrong_truth" of EVENT_TRIAL_ROUND_POST ("trial.round.post") tests whether a tensor
        #   is true in every step, so each step waits for the device: do it only every N steps, as under "if
        #   ctx.stepper.is_due(N):", or leave the choice to the device, as with torch.where
        bad = [each for each in (loss, loss) if each > 3]
        # E[d9d-host-sync]: Handler "wrong_truth" of EVENT_TRIAL_ROUND_POST ("trial.round.post") tests whether a tensor
        #   is true in every step, so each step waits for the device: do it only every N steps, as under "if
        #   ctx.stepper.is_due(N):", or leave the choice to the device, as with torch.where
        if distributed.get_rank() or loss > 4:
            worse += len(bad)
        between = 0 < loss < 1
        # E[d9d-host-sync]: Handler "wrong_truth" of EVENT_TRIAL_ROUND_POST ("trial.round.post") tests whether a tensor
        #   is true in every step, so each step waits for the device: do it only every N steps, as under "if
        #   ctx.stepper.is_due(N):", or leave the choice to the device, as with torch.where
        while loss > 1:
            loss = loss * 0.5

    # These conditions are the same in every step.
    @subscribe(EVENT_TRIAL_ROUND_POST)
    def wrong_under_a_steady_condition(self, ctx: EventRoundContext) -> None:
        if distributed.get_rank() == 0:
            # E[d9d-host-sync]: Handler "wrong_under_a_steady_condition" of EVENT_TRIAL_ROUND_POST ("trial.round.post")
            #   prints a tensor in every step, so each step waits for the device: do it only every N steps, as under "if
            #   ctx.stepper.is_due(N):", or keep the tensor on the device with ".detach()"
            print(ctx.losses)
        if isinstance(ctx.losses, Tensor):
            # E[d9d-host-sync]: Handler "wrong_under_a_steady_condition" of EVENT_TRIAL_ROUND_POST ("trial.round.post")
            #   calls ".item()" on a tensor in every step, so each step waits for the device: do it only every N steps,
            #   as under "if ctx.stepper.is_due(N):", or keep the tensor on the device with ".detach()"
            ctx.losses.item()
        for each in (ctx.losses, ctx.losses):
            # E[d9d-host-sync]: Handler "wrong_under_a_steady_condition" of EVENT_TRIAL_ROUND_POST ("trial.round.post")
            #   calls ".item()" on a tensor in every step, so each step waits for the device: do it only every N steps,
            #   as under "if ctx.stepper.is_due(N):", or keep the tensor on the device with ".detach()"
            each.item()
        with torch.no_grad():
            # E[d9d-host-sync]: Handler "wrong_under_a_steady_condition" of EVENT_TRIAL_ROUND_POST ("trial.round.post")
            #   calls ".item()" on a tensor in every step, so each step waits for the device: do it only every N steps,
            #   as under "if ctx.stepper.is_due(N):", or keep the tensor on the device with ".detach()"
            ctx.losses.item()
        try:
            # E[d9d-host-sync]: Handler "wrong_under_a_steady_condition" of EVENT_TRIAL_ROUND_POST ("trial.round.post")
            #   calls ".item()" on a tensor in every step, so each step waits for the device: do it only every N steps,
            #   as under "if ctx.stepper.is_due(N):", or keep the tensor on the device with ".detach()"
            ctx.losses.item()
        except RuntimeError:
            ctx.losses.item()


class WrongState:
    def __init__(self, verbose: bool, log: logging.Logger | None) -> None:
        self._verbose = verbose
        self._log = log
        self._loss: Tensor | None = None
        self._model: nn.Module | None = None

    @subscribe(EVENT_TRAIN_MODEL_STAGES_READY)
    def right_since_it_happens_once(self, ctx: EventModelStagesReadyContext) -> None:
        self._model = ctx.modules[0]
        for parameter in self._model.parameters():
            print(parameter, parameter.item())

    @subscribe(EVENT_TRAIN_STEP_POST)
    def wrong(self, ctx: EventStepContext) -> None:
        assert self._model is not None
        for parameter in self._model.parameters():
            if parameter.grad is not None:
                # E[d9d-host-sync]: Handler "wrong" of EVENT_TRAIN_STEP_POST ("train.step.post") calls ".item()" on a
                #   tensor in every step, so each step waits for the device: do it only every N steps, as under "if
                #   ctx.stepper.is_due(N):", or keep the tensor on the device with ".detach()"
                logger.info("%f", parameter.grad.mean().item())
        if self._loss:
            self._loss = None
        if self._log is not None and self._verbose:
            print(self._loss)

    # The second event happens in every step.
    @subscribe(EVENT_TRAIN_MODEL_STAGES_READY)
    @subscribe(EVENT_TRAIN_STEP_PRE)
    @subscribe(EVENT_TRAIN_STEP_POST)
    def wrong_for_two_of_three(self, ctx: EventStepContext | EventModelStagesReadyContext) -> None:
        # E[d9d-host-sync]: Handler "wrong_for_two_of_three" of EVENT_TRAIN_MODEL_STAGES_READY
        #   ("train.configuration.model_stages") and EVENT_TRAIN_STEP_POST ("train.step.post") and EVENT_TRAIN_STEP_PRE
        #   ("train.step.pre") calls ".item()" on a tensor in every step, so each step waits for the device: do it only
        #   every N steps, as under "if ctx.stepper.is_due(N):", or keep the tensor on the device with ".detach()"
        torch.zeros(1, device="cuda").item()


class WrongBeforeItIsKnown:
    @subscribe(EVENT_TRAIN_STEP_POST)
    def wrong(self, ctx: EventStepContext) -> None:
        # E[d9d-host-sync]: Handler "wrong" of EVENT_TRAIN_STEP_POST ("train.step.post") calls ".item()" on a tensor in
        #   every step, so each step waits for the device: do it only every N steps, as under "if
        #   ctx.stepper.is_due(N):", or keep the tensor on the device with ".detach()"
        self._loss.item()

    @subscribe(EVENT_TRAIN_MODEL_STAGES_READY)
    def define(self, ctx: EventModelStagesReadyContext) -> None:
        self._loss = made_later()


class WrongRegistered:
    def register(self, bus: EventBus) -> None:
        bus.subscribe(EVENT_TRIAL_ROUND_POST, self.wrong)
        bus.subscribe(EVENT_TRAIN_STEP_POST, self.wrong_as_well)
        bus.subscribe(EVENT_TRAIN_STEP_PRE, self.wrong_as_well)
        bus.subscribe(EVENT_TRIAL_ROUND_POST, wrong_function)
        # E[d9d-host-sync]: Handler "<lambda>" of EVENT_TRIAL_ROUND_POST ("trial.round.post") prints a tensor in every
        #   step, so each step waits for the device: do it only every N steps, as under "if ctx.stepper.is_due(N):", or
        #   keep the tensor on the device with ".detach()"
        bus.subscribe(EVENT_TRIAL_ROUND_POST, lambda ctx: print(ctx.losses))
        bus.subscribe(EVENT_TRIAL_ROUND_POST, lambda ctx: print(ctx.index))
        bus.subscribe(EVENT_TRIAL_ROUND_POST, functools.partial(self.wrong_partial, "tag"))
        bus.subscribe(EVENT_TRIAL_ROUND_POST, on_step_elsewhere)
        bus.subscribe(EVENT_TRIAL_ROUND_POST, Average().on_step)
        bus.subscribe(EVENT_TRIAL_READY, self.right_once)

        def wrong_local(ctx: EventRoundContext) -> None:
            # E[d9d-host-sync]: Handler "wrong_local" of EVENT_TRIAL_ROUND_POST ("trial.round.post") calls ".item()" on
            #   a tensor in every step, so each step waits for the device: do it only every N steps, as under "if
            #   ctx.stepper.is_due(N):", or keep the tensor on the device with ".detach()"
            ctx.losses.item()

        bus.subscribe(EVENT_TRIAL_ROUND_POST, wrong_local)

    def wrong(self, ctx: EventRoundContext) -> None:
        # E[d9d-host-sync]: Handler "wrong" of EVENT_TRIAL_ROUND_POST ("trial.round.post") prints a tensor in every
        #   step, so each step waits for the device: do it only every N steps, as under "if ctx.stepper.is_due(N):", or
        #   keep the tensor on the device with ".detach()"
        print(ctx.losses)

    def wrong_as_well(self, ctx: EventStepContext) -> None:
        # E[d9d-host-sync]: Handler "wrong_as_well" of EVENT_TRAIN_STEP_POST ("train.step.post") calls ".item()" on a
        #   tensor in every step, so each step waits for the device: do it only every N steps, as under "if
        #   ctx.stepper.is_due(N):", or keep the tensor on the device with ".detach()"
        self._loss.item()

    def wrong_partial(self, tag: str, ctx: EventRoundContext) -> None:
        # E[d9d-host-sync]: Handler "wrong_partial" of EVENT_TRIAL_ROUND_POST ("trial.round.post") prints a tensor in
        #   every step, so each step waits for the device: do it only every N steps, as under "if
        #   ctx.stepper.is_due(N):", or keep the tensor on the device with ".detach()"
        print(tag, ctx.losses)

    def right_once(self, ctx: EventTrialReadyContext) -> None:
        self._loss = torch.zeros(1, device="cuda")
        print(self._loss)


class WrongWhoeverComesFirst:
    """Each of the two subscribes the other, which has its type from a method further down."""

    def __init__(self, bus: EventBus) -> None:
        self._bus = bus

    def even(self, ctx: EventRoundContext) -> None:
        # E[d9d-late]: "even" runs in every step and subscribes a handler each time, so the handler is called once more
        #   with every step: subscribe it once, in register_events
        self._bus.subscribe(EVENT_TRIAL_ROUND_POST, self.odd)
        self._sum = self._last

    def odd(self, ctx: EventRoundContext) -> None:
        # E[d9d-late]: "odd" runs in every step and subscribes a handler each time, so the handler is called once more
        #   with every step: subscribe it once, in register_events
        self._bus.subscribe(EVENT_TRIAL_ROUND_POST, self.even)
        self._sum = self._last

    def start(self) -> None:
        self._last = made_later()


def wrong_function(ctx: EventRoundContext) -> None:
    # E[d9d-host-sync]: Handler "wrong_function" of EVENT_TRIAL_ROUND_POST ("trial.round.post") prints a tensor in every
    #   step, so each step waits for the device: do it only every N steps, as under "if ctx.stepper.is_due(N):", or keep
    #   the tensor on the device with ".detach()"
    print(ctx.losses)


@subscribe(EVENT_TRIAL_ROUND_POST)
def wrong_decorated_function(ctx: EventRoundContext) -> None:
    # E[d9d-host-sync]: Handler "wrong_decorated_function" of EVENT_TRIAL_ROUND_POST ("trial.round.post") prints a
    #   tensor in every step, so each step waits for the device: do it only every N steps, as under "if
    #   ctx.stepper.is_due(N):", or keep the tensor on the device with ".detach()"
    print(ctx.losses, LATER)


def made_later() -> Tensor:
    return torch.zeros(1, device="cuda")


LATER = made_later()


class RightPeriodically:
    def __init__(self, period: int) -> None:
        self._period = period
        self._due = False
        self._count = 0
        self._last = 0.0
        self._seen = False
        self._pending: Tensor | None = None
        self._buffer: list[Tensor] = []

    @subscribe(EVENT_TRAIN_STEP_PRE)
    def look(self, ctx: EventStepContext) -> None:
        self._due = ctx.stepper.is_due(self._period)

    @subscribe(EVENT_TRAIN_STEP_POST)
    def right(self, ctx: EventStepContext) -> None:
        loss = torch.zeros(1, device="cuda")
        if self._due:
            print(loss)
        if ctx.stepper.is_last and loss > 3:
            print(loss)
        if (ctx.stepper.current_step + 1) % self._period == 0:
            loss.item()
        due = ctx.stepper.is_due(self._period)
        number = loss.item() if due else 0.0
        if due and distributed.get_rank() == 0:
            logger.info("%f", number)
            loss.item()
        if distributed.get_rank() == ctx.stepper.current_step % distributed.get_world_size():
            loss.item()
        if ctx.stepper.current_step == 0:
            loss.item()
        if time.monotonic() - self._last > 60:
            loss.item()
        for _ in range(3):
            if not due:
                continue
            loss.item()
        if self._pending is not None:
            self._pending.item()
        if self._buffer:
            self._buffer[0].item()
        for each in self._buffer if due else []:
            each.item()
        if any(ctx.stepper.is_due(period) for period in (3, 5)):
            loss.item()
        if time.monotonic() > self._last and (step := ctx.stepper.current_step) > 10:
            logger.info("%d: %f", step, loss.item())
        latest = None
        if due:
            latest = loss
        if latest is not None:
            latest.item()
        if not self._seen:
            self._seen = True
            loss.item()
        if due or self._seen:
            return
        loss.item()

    @subscribe(EVENT_TRAIN_STEP_POST)
    def right_after_an_early_return(self, ctx: EventStepContext) -> None:
        loss = torch.zeros(1, device="cuda")
        self._count += 1
        if self._count < self._period:
            return
        self._count = 0
        print(loss.item())
        with torch.no_grad():
            for _ in range(3):
                if loss > 3:
                    break

    @subscribe(EVENT_TRAIN_STEP_POST)
    def right_by_a_helper(self, ctx: EventStepContext) -> None:
        if self._is_time(ctx):
            self._pending = torch.zeros(1, device="cuda").cpu()
        match ctx.stepper.current_step:
            case 0:
                torch.zeros(1, device="cuda").cpu()
            case _:
                pass

    def _is_time(self, ctx: EventStepContext) -> bool:
        return ctx.stepper.is_due(self._period)

    @subscribe(EVENT_TRAIN_STEP_POST)
    @every(100)
    def right_by_a_decorator(self, ctx: EventStepContext) -> None:
        print(torch.zeros(1, device="cuda"))


class RightOnTheDevice:
    def __init__(self) -> None:
        self._total = torch.zeros(1)
        self._numbers: dict[str, Any] = {}

    @subscribe(EVENT_TRIAL_ROUND_POST)
    def right(self, ctx: EventRoundContext, *, verbose: bool = False) -> None:
        self._total = self._total + ctx.losses.detach().mean()
        print("round", ctx.index, ctx.losses.shape, ctx.losses.numel())
        print(f"round {ctx.index}, {len(ctx.losses.shape)}")
        self._numbers["later"] = lambda: ctx.losses.item()

        def later() -> None:
            print(ctx.losses)

        self._numbers["much later"] = later
        if ctx.losses is not None and len(ctx.losses.shape) > 1 and ctx.losses.shape[0]:
            self._numbers["losses"] = ctx.losses
        anything: Any = ctx.losses
        # E[d9d-host-sync]: Handler "right" of EVENT_TRIAL_ROUND_POST ("trial.round.post") tests whether a tensor is
        #   true in every step, so each step waits for the device: do it only every N steps, as under "if
        #   ctx.stepper.is_due(N):", or leave the choice to the device, as with torch.where
        if anything > 3:
            print(anything.item())

    @subscribe(EVENT_TRIAL_ROUND_POST)
    def right_on_the_host(self, ctx: EventRoundContext) -> None:
        times = torch.tensor([time.monotonic()])
        print(times, times.mean().item(), [each.item() for each in (times, times)])
        moved = ctx.losses.to("cpu", non_blocking=True)
        for order in torch.randperm(3).tolist():
            print(order, moved.item())
        if times > 3:
            print(times)

    @subscribe(EVENT_TRIAL_READY)
    def right_once(self, ctx: EventTrialReadyContext) -> None:
        print(self._total, self._total.item())

    @subscribe(EVENT_TRAIN_STEP_POST)
    def right_of_a_module(self, ctx: EventStepContext) -> None:
        if self._module.is_big:
            self._numbers["big"] = True

    _module = nn.Module()

    @subscribe(EVENT_TRIAL_ROUND_POST)
    def wrong_without_annotations(self, ctx: Any) -> None:
        # E[d9d-host-sync]: Handler "wrong_without_annotations" of EVENT_TRIAL_ROUND_POST ("trial.round.post") calls
        #   ".item()" on a tensor in every step, so each step waits for the device: do it only every N steps, as under
        #   "if ctx.stepper.is_due(N):", or keep the tensor on the device with ".detach()"
        # E[d9d-host-sync]: Handler "wrong_without_annotations" of EVENT_TRIAL_ROUND_POST ("trial.round.post") prints a
        #   tensor in every step, so each step waits for the device: do it only every N steps, as under "if
        #   ctx.stepper.is_due(N):", or keep the tensor on the device with ".detach()"
        print(ctx.losses, ctx.losses.item())

    def right_since_nothing_subscribes_it(self, ctx: EventRoundContext) -> None:
        print(ctx.losses, ctx.losses.item())


@subscribe(EVENT_SAVED_ELSEWHERE)
def right_for_an_event_without_a_catalogue(ctx: SavedElsewhereContext) -> None:
    print(torch.zeros(1, device="cuda"))


def wrong_loop(bus: EventBus, handler: Callable[[EventStepContext], None]) -> None:
    def each(ctx: EventStepContext) -> None:
        # E[d9d-host-sync]: Handler "each" of EVENT_TRAIN_STEP_PRE ("train.step.pre") prints a tensor in every step, so
        #   each step waits for the device: do it only every N steps, as under "if ctx.stepper.is_due(N):", or keep the
        #   tensor on the device with ".detach()"
        print(torch.zeros(1, device="cuda"))

    for event in (EVENT_TRAIN_STEP_PRE, EVENT_TRAIN_STEP_POST):
        bus.subscribe(event, handler)
        bus.subscribe(event, each)


@dataclasses.dataclass
class RightDataclass:
    factor: Tensor
    verbose: bool = False

    @subscribe(EVENT_TRIAL_ROUND_POST)
    def right(self, ctx: EventRoundContext) -> None:
        self.factor = self.factor * ctx.losses
