"""Events without a catalogue."""

import dataclasses
from typing import Final

from moments.train import EVENT_TRAIN_READY, EventReadyContext
from own_events import EVENT_SAVED_ELSEWHERE, SavedElsewhereContext

from d9d.loop.event import Event, EventBus, subscribe


@dataclasses.dataclass(kw_only=True)
class SavedContext:
    step: int


EVENT_SAVED = Event[SavedContext](id="user.saved")
EVENT_SAVED_DECLARED: Event[SavedContext] = Event(id="user.saved_declared")
EVENT_SAVED_FINAL: Final = Event[SavedContext](id="user." + "saved_final")
EVENT_ALIAS = EVENT_TRAIN_READY


# E[d9d-handler]: Handler "wrong" of EVENT_SAVED ("user.saved") takes "EventReadyContext", but the event carries
#   "SavedContext": annotate "ctx" with "SavedContext". Did you mean the event EVENT_TRAIN_READY?
# E[d9d-untriggered]: Nothing triggers EVENT_SAVED ("user.saved"), so its handlers are never called: trigger it where it
#   happens, with bus.trigger or an emitter
@subscribe(EVENT_SAVED)
def wrong(ctx: EventReadyContext) -> None: ...


@subscribe(EVENT_SAVED)
def right(ctx: SavedContext) -> None: ...


# E[d9d-handler]: Handler "wrong_declared" of EVENT_SAVED_DECLARED ("user.saved_declared") takes "int", but the event
#   carries "SavedContext": annotate "ctx" with "SavedContext"
# E[d9d-untriggered]: Nothing triggers EVENT_SAVED_DECLARED ("user.saved_declared"), so its handlers are never called:
#   trigger it where it happens, with bus.trigger or an emitter
@subscribe(EVENT_SAVED_DECLARED)
def wrong_declared(ctx: int) -> None: ...


# E[d9d-handler]: Handler "wrong_final" of EVENT_SAVED_FINAL takes "int", but the event carries "SavedContext": annotate
#   "ctx" with "SavedContext"
# E[d9d-untriggered]: Nothing triggers EVENT_SAVED_FINAL, so its handlers are never called: trigger it where it happens,
#   with bus.trigger or an emitter
@subscribe(EVENT_SAVED_FINAL)
def wrong_final(ctx: int) -> None: ...


# E[d9d-handler]: Handler "wrong_alias" of EVENT_ALIAS takes "SavedContext", but the event carries "EventReadyContext":
#   annotate "ctx" with "EventReadyContext"
@subscribe(EVENT_ALIAS)
def wrong_alias(ctx: SavedContext) -> None: ...


# E[d9d-handler]: Handler "wrong_elsewhere" of EVENT_SAVED_ELSEWHERE ("user.saved_elsewhere") takes "SavedContext", but
#   the event carries "SavedElsewhereContext": annotate "ctx" with "SavedElsewhereContext"
@subscribe(EVENT_SAVED_ELSEWHERE)
def wrong_elsewhere(ctx: SavedContext) -> None: ...


@subscribe(EVENT_SAVED_ELSEWHERE)
def right_elsewhere(ctx: SavedElsewhereContext) -> None: ...


# E[d9d-handler]: Handler "wrong_for_the_catalogue" of EVENT_TRAIN_READY ("train.ready") takes "SavedContext", but the
#   event carries "EventReadyContext": annotate "ctx" with "EventReadyContext"
@subscribe(EVENT_TRAIN_READY)
def wrong_for_the_catalogue(ctx: SavedContext) -> None: ...


class Owner:
    event = Event[SavedContext](id="user.owned")

    def register(self, bus: EventBus) -> None:
        # E[d9d-untriggered]: Nothing triggers event ("user.owned"), so its handlers are never called: trigger it where
        #   it happens, with bus.trigger or an emitter
        bus.subscribe(self.event, right)
        # E[d9d-handler]: Handler "wrong" of event takes "EventReadyContext", but the event carries "SavedContext":
        #   annotate "ctx" with "SavedContext". Did you mean the event EVENT_TRAIN_READY?
        bus.subscribe(self.event, wrong)
        # E[d9d-handler]: Handler "wrong" of an event takes "EventReadyContext", but the event carries "SavedContext":
        #   annotate "ctx" with "SavedContext". Did you mean the event EVENT_TRAIN_READY?
        bus.subscribe(Event[SavedContext](id="user.inline"), wrong)
