"""Blocks between two events."""

import contextlib
from collections.abc import Iterator
from typing import Final, TypeVar

from lab.events.trial import (
    EVENT_TRIAL_DRAW_POST,
    EVENT_TRIAL_DRAW_PRE,
    EVENT_TRIAL_READY,
    EVENT_TRIAL_REPORT,
    EVENT_TRIAL_ROUND_POST,
    EVENT_TRIAL_ROUND_PRE,
    EVENT_TRIAL_TURN_POST,
    EventRoundContext,
    EventTrialReadyContext,
)
from moments.common import EventStepContext
from moments.train import EVENT_TRAIN_STEP_POST, EVENT_TRAIN_STEP_PRE

from d9d.loop.event import Event, EventBus

TContext = TypeVar("TContext")

EVENT_SAVE_PRE: Event[EventStepContext] = Event(id="user.save.pre")
EVENT_SAVE_POST: Event[EventStepContext] = Event(id="user.save.post")
EVENT_SAVE_POST_OF_PATH: Event[str] = Event(id="user.save_path.post")
EVENT_UPLOAD_BEGUN: Final[Event[EventStepContext]] = Event(id="user.upload.begun")
EVENT_UPLOAD_DONE: Final[Event[EventStepContext]] = Event(id="user.upload.done")
EVENT_UPLOAD_LOGGED: Event[str] = Event(id="user.upload.logged")


# docs: d9d-pair
def wrong(bus: EventBus, context: EventRoundContext) -> None:
    # E[d9d-pair]: EVENT_TRIAL_DRAW_PRE ("trial.draw.pre") and EVENT_TRIAL_ROUND_POST ("trial.round.post") do not begin
    #   and end the same block: the counterpart of EVENT_TRIAL_DRAW_PRE ("trial.draw.pre") is "trial.draw.post", and the
    #   counterpart of EVENT_TRIAL_ROUND_POST ("trial.round.post") is "trial.round.pre". Pass two events whose ids
    #   differ only in ".pre" and ".post"
    with bus.bounded(EVENT_TRIAL_DRAW_PRE, EVENT_TRIAL_ROUND_POST, context):
        pass
    # E[d9d-pair]: EVENT_TRIAL_DRAW_PRE ("trial.draw.pre") and its counterpart are never triggered here: "bounded"
    #   triggers them only in a "with" statement. Write "with bus.bounded(...):" around the block, or use "trigger" if
    #   there is no block
    bus.bounded(EVENT_TRIAL_DRAW_PRE, EVENT_TRIAL_DRAW_POST, context)


def right(bus: EventBus, context: EventRoundContext) -> None:
    with bus.bounded(EVENT_TRIAL_DRAW_PRE, EVENT_TRIAL_DRAW_POST, context):
        pass


# docs: end


def wrong_order(bus: EventBus, context: EventStepContext) -> None:
    # E[d9d-pair]: EVENT_TRAIN_STEP_POST ("train.step.post") ends the block that EVENT_TRAIN_STEP_PRE ("train.step.pre")
    #   begins: pass EVENT_TRAIN_STEP_PRE ("train.step.pre") first
    with bus.bounded(EVENT_TRAIN_STEP_POST, EVENT_TRAIN_STEP_PRE, context):
        pass


def wrong_twice(bus: EventBus, context: EventStepContext) -> None:
    # E[d9d-pair]: "bounded" is given EVENT_TRAIN_STEP_PRE ("train.step.pre") twice: pass the event with the id
    #   "train.step.post" as the other one
    with bus.bounded(EVENT_TRAIN_STEP_PRE, EVENT_TRAIN_STEP_PRE, context):
        pass


def wrong_without_sides(bus: EventBus, context: EventTrialReadyContext) -> None:
    # E[d9d-pair]: EVENT_TRIAL_READY ("trial.ready") and EVENT_TRIAL_REPORT ("trial.report") do not begin and end the
    #   same block: EVENT_TRIAL_READY ("trial.ready") has no counterpart, and EVENT_TRIAL_REPORT ("trial.report") has no
    #   counterpart. Pass two events whose ids differ only in ".pre" and ".post"
    # E[misc]: Cannot infer value of type parameter "TContext" of "bounded" of "EventBus"
    with bus.bounded(EVENT_TRIAL_READY, EVENT_TRIAL_REPORT, context):
        pass


def wrong_across_catalogues(bus: EventBus, context: EventRoundContext) -> None:
    # E[d9d-pair]: EVENT_TRIAL_ROUND_PRE ("trial.round.pre") and EVENT_TRAIN_STEP_POST ("train.step.post") do not begin
    #   and end the same block: the counterpart of EVENT_TRIAL_ROUND_PRE ("trial.round.pre") is "trial.round.post", and
    #   the counterpart of EVENT_TRAIN_STEP_POST ("train.step.post") is "train.step.pre". Pass two events whose ids
    #   differ only in ".pre" and ".post"
    # E[misc]: Cannot infer value of type parameter "TContext" of "bounded" of "EventBus"
    with bus.bounded(EVENT_TRIAL_ROUND_PRE, EVENT_TRAIN_STEP_POST, context):
        pass


def wrong_own_events(bus: EventBus, context: EventStepContext) -> None:
    # E[d9d-pair]: EVENT_SAVE_PRE ("user.save.pre") and EVENT_SAVE_POST_OF_PATH ("user.save_path.post") do not begin and
    #   end the same block: the counterpart of EVENT_SAVE_PRE ("user.save.pre") is "user.save.post", and the counterpart
    #   of EVENT_SAVE_POST_OF_PATH ("user.save_path.post") is "user.save_path.pre". Pass two events whose ids differ
    #   only in ".pre" and ".post"
    # E[misc]: Cannot infer value of type parameter "TContext" of "bounded" of "EventBus"
    with bus.bounded(EVENT_SAVE_PRE, EVENT_SAVE_POST_OF_PATH, context):
        pass


def wrong_contexts(bus: EventBus, context: EventStepContext) -> None:
    # E[d9d-pair]: EVENT_UPLOAD_BEGUN ("user.upload.begun") carries "EventStepContext", but EVENT_UPLOAD_LOGGED
    #   ("user.upload.logged") carries "str": "bounded" passes one context to the handlers of both, so use two events
    #   that carry the same context
    # E[misc]: Cannot infer value of type parameter "TContext" of "bounded" of "EventBus"
    with bus.bounded(EVENT_UPLOAD_BEGUN, EVENT_UPLOAD_LOGGED, context):
        pass


def wrong_kept(bus: EventBus, context: EventStepContext) -> None:
    # E[d9d-pair]: EVENT_TRAIN_STEP_PRE ("train.step.pre") and its counterpart are never triggered here: "bounded"
    #   triggers them only in a "with" statement. Write "with bus.bounded(...):" around the block, or use "trigger" if
    #   there is no block
    moment = bus.bounded(EVENT_TRAIN_STEP_PRE, EVENT_TRAIN_STEP_POST, context)


# E[d9d-pair]: EVENT_TRAIN_STEP_PRE ("train.step.pre") and its counterpart are never triggered here: "bounded" triggers
#   them only in a "with" statement. Write "with bus.bounded(...):" around the block, or use "trigger" if there is no
#   block
EventBus().bounded(EVENT_TRAIN_STEP_PRE, EVENT_TRAIN_STEP_POST, EventStepContext(step=1))


def right_blocks(bus: EventBus, step: EventStepContext, round_context: EventRoundContext) -> None:
    with bus.bounded(event_post=EVENT_TRAIN_STEP_POST, event_pre=EVENT_TRAIN_STEP_PRE, context=step):
        pass
    with bus.bounded(EVENT_SAVE_PRE, EVENT_SAVE_POST, step), bus.bounded(EVENT_UPLOAD_BEGUN, EVENT_UPLOAD_DONE, step):
        pass
    with bus.bounded(EVENT_TRIAL_ROUND_PRE, EVENT_TRIAL_TURN_POST, round_context):  # type: ignore[d9d-deprecated]
        pass


def right_on_a_stack(bus: EventBus, context: EventStepContext) -> None:
    with contextlib.ExitStack() as stack:
        stack.enter_context(bus.bounded(EVENT_TRAIN_STEP_PRE, EVENT_TRAIN_STEP_POST, context))


def right_returned(bus: EventBus, context: EventStepContext) -> contextlib.AbstractContextManager[None]:
    return bus.bounded(EVENT_TRAIN_STEP_PRE, EVENT_TRAIN_STEP_POST, context)


def right_kept(bus: EventBus, context: EventStepContext, *, is_told: bool) -> None:
    moment = bus.bounded(EVENT_TRAIN_STEP_PRE, EVENT_TRAIN_STEP_POST, context)
    with moment if is_told else contextlib.nullcontext():
        pass


@contextlib.contextmanager
def right_generic(bus: EventBus, pre: Event[TContext], post: Event[TContext], context: TContext) -> Iterator[None]:
    with bus.bounded(pre, post, context):
        yield


class RightOwner:
    def __init__(self, bus: EventBus, context: EventStepContext) -> None:
        self.moment = bus.bounded(EVENT_TRAIN_STEP_PRE, EVENT_TRAIN_STEP_POST, context)
