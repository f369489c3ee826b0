"""Emitters that nothing calls, in three shapes."""

from d9d.loop.event import Event, EventBus, subscribe

EVENT_SAVED: Event[str] = Event(id="user.saved")
EVENT_LOADED: Event[str] = Event(id="user.loaded")


@subscribe(EVENT_SAVED)
@subscribe(EVENT_LOADED)
def log(path: str) -> None: ...


class Store:
    def __init__(self, bus: EventBus) -> None:
        self._bus = bus
        self._loaded = bus.emitter(EVENT_LOADED)
        bus.subscribe(EVENT_SAVED, log)
        bus.subscribe(EVENT_LOADED, log)

    def save(self, path: str) -> None:
        # E[d9d-emitter]: This emitter never triggers EVENT_SAVED ("user.saved"), because nothing calls its method
        #   "call": keep the emitter, and call "emitter.call(context)" where the event happens, or use "bus.trigger"
        saved = self._bus.emitter(EVENT_SAVED)
        if saved.handlers:
            print(path)

    def load(self, path: str) -> None:
        self._loaded.call(path)

    def discard(self, path: str) -> bool:
        # E[d9d-emitter]: This emitter never triggers EVENT_SAVED ("user.saved"), because nothing calls its method
        #   "call": keep the emitter, and call "emitter.call(context)" where the event happens, or use "bus.trigger"
        self._bus.emitter(EVENT_SAVED)
        # E[d9d-emitter]: This emitter never triggers EVENT_SAVED ("user.saved"), because nothing calls its method
        #   "call": keep the emitter, and call "emitter.call(context)" where the event happens, or use "bus.trigger"
        return bool(self._bus.emitter(EVENT_SAVED).handlers)

    def right(self, path: str) -> None:
        saved, loaded = self._bus.emitter(EVENT_SAVED), self._loaded
        if saved.handlers:
            saved.call(path)
        if loaded.handlers:
            self.load(path)

    def right_within(self, path: str) -> None:
        saved = self._bus.emitter(EVENT_SAVED)

        def finish() -> None:
            saved.call(path)

        finish()
