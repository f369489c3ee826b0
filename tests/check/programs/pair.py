"""Blocks without a `with` statement, and of events that do not belong together."""

import contextlib

from d9d.loop.event import Event, EventBus
from d9d.loop.event.catalogue.train import (
    EVENT_TRAIN_FORWARD_BACKWARD_POST,
    EVENT_TRAIN_STEP_POST,
    EVENT_TRAIN_STEP_PRE,
    EventStepContext,
)

EVENT_UPLOAD_BEGUN: Event[str] = Event(id="user.upload.begun")
EVENT_UPLOAD_DONE: Event[str] = Event(id="user.upload.done")


def run(bus: EventBus, ctx: EventStepContext) -> None:
    # E[d9d-pair]: EVENT_TRAIN_STEP_PRE ("train.step.pre") and its counterpart are never triggered here: "bounded"
    #   triggers them only in a "with" statement. Write "with bus.bounded(...):" around the block, or use "trigger" if
    #   there is no block
    bus.bounded(EVENT_TRAIN_STEP_PRE, EVENT_TRAIN_STEP_POST, ctx)
    # E[d9d-pair]: EVENT_UPLOAD_BEGUN ("user.upload.begun") and its counterpart are never triggered here: "bounded"
    #   triggers them only in a "with" statement. Write "with bus.bounded(...):" around the block, or use "trigger" if
    #   there is no block
    block = bus.bounded(EVENT_UPLOAD_BEGUN, EVENT_UPLOAD_DONE, "a")
    # E[d9d-pair]: EVENT_TRAIN_STEP_PRE ("train.step.pre") and EVENT_TRAIN_FORWARD_BACKWARD_POST
    #   ("train.forward_backward.post") do not begin and end the same block: the counterpart of EVENT_TRAIN_STEP_PRE
    #   ("train.step.pre") is "train.step.post", and the counterpart of EVENT_TRAIN_FORWARD_BACKWARD_POST
    #   ("train.forward_backward.post") is "train.forward_backward.pre". Pass two events whose ids differ only in ".pre"
    #   and ".post"
    with bus.bounded(EVENT_TRAIN_STEP_PRE, EVENT_TRAIN_FORWARD_BACKWARD_POST, ctx):
        pass
    # E[d9d-pair]: EVENT_TRAIN_STEP_POST ("train.step.post") ends the block that EVENT_TRAIN_STEP_PRE ("train.step.pre")
    #   begins: pass EVENT_TRAIN_STEP_PRE ("train.step.pre") first
    with bus.bounded(EVENT_TRAIN_STEP_POST, EVENT_TRAIN_STEP_PRE, ctx):
        pass
    with bus.bounded(EVENT_UPLOAD_BEGUN, EVENT_UPLOAD_DONE, "a"), contextlib.ExitStack() as stack:
        stack.enter_context(bus.bounded(EVENT_TRAIN_STEP_PRE, EVENT_TRAIN_STEP_POST, ctx))
        kept = bus.bounded(EVENT_TRAIN_STEP_PRE, EVENT_TRAIN_STEP_POST, ctx)
        with kept:
            pass
