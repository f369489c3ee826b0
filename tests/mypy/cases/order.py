"""Handlers that read attributes which the handlers of earlier or later events assign."""

import contextlib
import dataclasses
import sys
from typing import Any

from lab.events.trial import (
    EVENT_TRIAL_DRAW_POST,
    EVENT_TRIAL_DRAW_PRE,
    EVENT_TRIAL_READY,
    EVENT_TRIAL_REPORT,
    EVENT_TRIAL_ROUND_POST,
    EVENT_TRIAL_ROUND_PRE,
    EventRoundContext,
    EventTrialReadyContext,
    EventTrialReportContext,
)
from order_base import Annotated, BeginsWithZero, Dynamic, Helped, KeepsItsTitle, KeepsItsTotal
from own_events import EVENT_SAVED_ELSEWHERE, SavedElsewhereContext
from torch import Tensor, nn

from d9d.loop.event import EventBus, subscribe
from d9d.loop.event.catalogue.inference import EVENT_INFERENCE_FINISHED, EventInferenceFinishedContext
from d9d.loop.event.catalogue.train import (
    EVENT_TRAIN_MODEL_STAGES_READY,
    EVENT_TRAIN_OPTIMIZER_READY,
    EVENT_TRAIN_STEP_POST,
    EVENT_TRAIN_STEP_PRE,
    EventModelStagesReadyContext,
    EventOptimizerReadyContext,
    EventStepContext,
)


def show(*values: object) -> None: ...


# docs: d9d-order
class WrongStates:
    @subscribe(EVENT_TRAIN_MODEL_STAGES_READY)
    def count(self, ctx: EventModelStagesReadyContext) -> None:
        # E[d9d-order]: Handler "count" of EVENT_TRAIN_MODEL_STAGES_READY ("train.configuration.model_stages") reads
        #   "self.optimizer", which is assigned only later in the run, by handler "keep" of EVENT_TRAIN_OPTIMIZER_READY
        #   ("train.configuration.optimizer"): assign it in "__init__" too, or in the handler of an earlier event
        self.num_entries = len(self.optimizer.state_dict())

    @subscribe(EVENT_TRAIN_OPTIMIZER_READY)
    def keep(self, ctx: EventOptimizerReadyContext) -> None:
        self.optimizer = ctx.optimizer


class RightStates:
    @subscribe(EVENT_TRAIN_OPTIMIZER_READY)
    def keep(self, ctx: EventOptimizerReadyContext) -> None:
        self.optimizer = ctx.optimizer
        self.num_entries = len(self.optimizer.state_dict())


# docs: end


class WrongFirstStep:
    losses: Tensor

    @subscribe(EVENT_TRIAL_ROUND_PRE)
    def wrong(self, ctx: EventRoundContext) -> None:
        # E[d9d-order]: Handler "wrong" of EVENT_TRIAL_ROUND_PRE ("trial.round.pre") reads "self.losses", which is
        #   assigned only later in the run, by handler "keep" of EVENT_TRIAL_DRAW_POST ("trial.draw.post") and
        #   EVENT_TRIAL_ROUND_POST ("trial.round.post"): assign it in "__init__" too, or in the handler of an earlier
        #   event
        show(self.losses)
        show(self.losses)

    @subscribe(EVENT_TRIAL_DRAW_PRE)
    def wrong_as_well(self, ctx: EventRoundContext) -> None:
        self.mean = self.losses.mean()

    @subscribe(EVENT_TRIAL_DRAW_POST)
    @subscribe(EVENT_TRIAL_ROUND_POST)
    def keep(self, ctx: EventRoundContext) -> None:
        self.losses = ctx.losses

    @subscribe(EVENT_TRIAL_REPORT)
    def right(self, ctx: EventTrialReportContext) -> None:
        show(self.losses)


class RightFirstStep:
    def __init__(self) -> None:
        self.losses: Tensor | None = None

    @subscribe(EVENT_TRIAL_ROUND_PRE)
    def right(self, ctx: EventRoundContext) -> None:
        show(self.losses)

    @subscribe(EVENT_TRIAL_ROUND_POST)
    def keep(self, ctx: EventRoundContext) -> None:
        self.losses = ctx.losses


class WrongInAnyStep:
    @subscribe(EVENT_TRIAL_ROUND_POST)
    def wrong(self, ctx: EventRoundContext) -> None:
        if ctx.index % 10 == 0:
            self.report.append(ctx.index)

    @subscribe(EVENT_TRIAL_READY)
    @subscribe(EVENT_TRIAL_REPORT)
    def wrong_for_one_of_two(self, ctx: EventTrialReadyContext | EventTrialReportContext) -> None:
        # E[d9d-order]: Handler "wrong_for_one_of_two" of EVENT_TRIAL_READY ("trial.ready") and EVENT_TRIAL_REPORT
        #   ("trial.report") reads "self.report", which is assigned only later in the run, by handler "begin" of
        #   EVENT_TRIAL_REPORT ("trial.report"): assign it in "__init__" too, or in the handler of an earlier event
        show(self.report)

    @subscribe(EVENT_TRIAL_REPORT)
    def begin(self, ctx: EventTrialReportContext) -> None:
        self.report: list[int] = []

    @subscribe(EVENT_TRIAL_ROUND_POST)
    def count_rounds(self, ctx: EventRoundContext) -> None:
        (self.count, _), self.again = (1, 2), 3

    @subscribe(EVENT_TRIAL_ROUND_PRE)
    def wrong_in_the_first_step(self, ctx: EventRoundContext) -> None:
        # E[d9d-order]: Handler "wrong_in_the_first_step" of EVENT_TRIAL_ROUND_PRE ("trial.round.pre") reads
        #   "self.count", which is assigned only later in the run, by handler "count_rounds" of EVENT_TRIAL_ROUND_POST
        #   ("trial.round.post"): assign it in "__init__" too, or in the handler of an earlier event
        self.count += 1
        # E[d9d-order]: Handler "wrong_in_the_first_step" of EVENT_TRIAL_ROUND_PRE ("trial.round.pre") reads
        #   "self.again", which is assigned only later in the run, by handler "count_rounds" of EVENT_TRIAL_ROUND_POST
        #   ("trial.round.post"): assign it in "__init__" too, or in the handler of an earlier event
        show(self.again)


class WrongWithABase(KeepsItsTotal, Annotated):
    @subscribe(EVENT_TRIAL_READY)
    def wrong(self, ctx: EventTrialReadyContext) -> None:
        # E[d9d-order]: Handler "wrong" of EVENT_TRIAL_READY ("trial.ready") reads "self.total", which is assigned only
        #   later in the run, by handler "keep" of EVENT_TRIAL_ROUND_POST ("trial.round.post"): assign it in "__init__"
        #   too, or in the handler of an earlier event
        show(self.total, self.result)


class WrongWithAnotherBase(BeginsWithZero, KeepsItsTitle, Annotated):
    @subscribe(EVENT_TRIAL_READY)
    def right(self, ctx: EventTrialReadyContext) -> None:
        # E[d9d-order]: Handler "right" of EVENT_TRIAL_READY ("trial.ready") reads "self.result", which is assigned only
        #   later in the run, by handler "finish" of EVENT_TRIAL_REPORT ("trial.report"): assign it in "__init__" too,
        #   or in the handler of an earlier event
        show(self.total, self.title, self.result)

    @subscribe(EVENT_TRIAL_REPORT)
    def finish(self, ctx: EventTrialReportContext) -> None:
        self.title = self.result = ""


class RightSinceItIsCalled(Helped):
    @subscribe(EVENT_TRIAL_READY)
    def right(self, ctx: EventTrialReadyContext) -> None:
        show(self.result)


class RightSinceItIsDynamic(Dynamic):
    @subscribe(EVENT_TRIAL_READY)
    def right(self, ctx: EventTrialReadyContext) -> None:
        show(self.result)


class WrongOverride(KeepsItsTotal):
    @subscribe(EVENT_TRIAL_REPORT)
    def keep(self, ctx: EventRoundContext | EventTrialReportContext) -> None:
        self.total = 2.0

    @subscribe(EVENT_TRIAL_ROUND_POST)
    def wrong(self, ctx: EventRoundContext) -> None:
        # E[d9d-order]: Handler "wrong" of EVENT_TRIAL_ROUND_POST ("trial.round.post") reads "self.total", which is
        #   assigned only later in the run, by handler "keep" of EVENT_TRIAL_REPORT ("trial.report"): assign it in
        #   "__init__" too, or in the handler of an earlier event
        show(self.total)


class RightOrder:
    early = 1
    late: int

    @subscribe(EVENT_TRIAL_READY)
    def right(self, ctx: EventTrialReadyContext) -> None:
        self.title = ctx.title
        self.report = [self.title, self.early, self.shown]
        self.show()

    @subscribe(EVENT_TRIAL_ROUND_PRE)
    def right_in_a_step(self, ctx: EventRoundContext) -> None:
        if ctx.index > 0:
            show(self.previous)
        show(ctx.index and self.previous, self.previous if ctx.index else None)
        for _ in range(ctx.index):
            show(self.previous)
        if hasattr(self, "losses"):
            show(self.losses)
        try:
            show(self.missing)
        except AttributeError:
            show()
        with contextlib.suppress(AttributeError):
            show(self.missing)
        show(self.set_by_a_helper, self.subscribed, lambda: self.previous)
        if sys.version_info >= (3, 20):
            show(self.previous)

    @subscribe(EVENT_TRIAL_ROUND_PRE)
    def right_after_an_early_return(self, ctx: EventRoundContext) -> None:
        if ctx.index == 0:
            return
        show(self.previous)

    @subscribe(EVENT_TRIAL_ROUND_POST)
    def keep(self, ctx: EventRoundContext) -> None:
        self.previous = self.losses = self.missing = ctx.losses
        self.set_by_a_helper = self.subscribed = self.set_for_other_versions = 1
        self.early = 2
        show(self.set_in_the_same_event)

    @subscribe(EVENT_TRIAL_ROUND_POST)
    def keep_as_well(self, ctx: EventRoundContext) -> None:
        self.set_in_the_same_event = 1

    def show(self) -> None:
        self.set_by_a_helper = 2
        if sys.version_info >= (3, 20):
            self.set_for_other_versions = 2

    @subscribe(EVENT_TRIAL_ROUND_PRE)
    def right_for_other_versions(self, ctx: EventRoundContext) -> None:
        show(self.set_for_other_versions)

    def register(self, bus: EventBus) -> None:
        self.subscribed = 0
        bus.subscribe(EVENT_TRIAL_ROUND_POST, self.keep_as_well)

    @property
    def shown(self) -> int:
        return 1


class RightOverLoops:
    @subscribe(EVENT_TRIAL_READY)
    def right(self, ctx: EventTrialReadyContext) -> None:
        show(self.result, self.saved, self.from_outside)

    @subscribe(EVENT_INFERENCE_FINISHED)
    def finish(self, ctx: EventInferenceFinishedContext) -> None:
        self.result = 1

    @subscribe(EVENT_SAVED_ELSEWHERE)
    def save(self, ctx: SavedElsewhereContext) -> None:
        self.saved = 1

    @subscribe(EVENT_TRIAL_REPORT)
    def report(self, ctx: EventTrialReportContext) -> None:
        self.from_outside = 1


def begin(loops: RightOverLoops) -> None:
    loops.from_outside = 0


class RightByHand:
    @subscribe(EVENT_TRIAL_READY)
    def right(self, ctx: EventTrialReadyContext) -> None:
        show(self.result)

    @subscribe(EVENT_TRIAL_READY)
    @subscribe(EVENT_TRIAL_ROUND_PRE)
    def right_under_a_condition(self, ctx: EventTrialReadyContext | EventRoundContext) -> None:
        if isinstance(ctx, EventRoundContext):
            show(self.index)

    @subscribe(EVENT_TRIAL_ROUND_PRE)
    def count(self, ctx: EventRoundContext) -> None:
        self.index = ctx.index

    @subscribe(EVENT_TRIAL_REPORT)
    def finish(self, ctx: EventTrialReportContext) -> None:
        self.result = 1


def finish_at_once(trial: RightByHand) -> None:
    trial.finish(EventTrialReportContext())


@dataclasses.dataclass
class RightDataclass:
    total: int

    @subscribe(EVENT_TRAIN_STEP_PRE)
    def right(self, ctx: EventStepContext) -> None:
        show(self.total)

    @subscribe(EVENT_TRAIN_STEP_POST)
    def add(self, ctx: EventStepContext) -> None:
        self.total += 1


class RightModule(nn.Module):
    bias: Tensor

    @subscribe(EVENT_TRAIN_STEP_PRE)
    def right(self, ctx: EventStepContext) -> None:
        show(self.bias)

    @subscribe(EVENT_TRAIN_STEP_POST)
    def add(self, ctx: EventStepContext) -> None:
        self.bias = self.bias + self.bias


class RightBase:
    total: int

    @subscribe(EVENT_TRAIN_STEP_PRE)
    def right(self, ctx: EventStepContext) -> None:
        show(self.total)

    @subscribe(EVENT_TRAIN_STEP_POST)
    def add(self, ctx: EventStepContext) -> None:
        self.total = 1


class RightDerived(RightBase):
    def __init__(self) -> None:
        self.total = 0


# E[misc]: Class cannot subclass "Any" (has type "Any")
class RightFromAnything(Any):
    @subscribe(EVENT_TRAIN_STEP_PRE)
    def right(self, ctx: EventStepContext) -> None:
        show(self.total)

    @subscribe(EVENT_TRAIN_STEP_POST)
    def add(self, ctx: EventStepContext) -> None:
        self.total = 1


class RightByName:
    @subscribe(EVENT_TRAIN_STEP_PRE)
    def right(self, ctx: EventStepContext) -> None:
        show(self.total, self.by_name)

    @subscribe(EVENT_TRAIN_STEP_POST)
    def add(self, ctx: EventStepContext) -> None:
        self.by_name = 1

    def __init__(self, **values: int) -> None:
        self.total = 0
        for name, value in values.items():
            setattr(self, name, value)


class RightHelper:
    """A step may read what the one before has left, if something says whether there was one."""

    @subscribe(EVENT_TRAIN_STEP_PRE)
    def right(self, ctx: EventStepContext) -> None:
        if ctx.stepper.current_step == 0:
            self.measured = 0.0
        show(self.measured)

    @subscribe(EVENT_TRAIN_STEP_POST)
    def measure(self, ctx: EventStepContext) -> None:
        self.measured = 1.0
