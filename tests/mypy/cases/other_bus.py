"""Tasks of one loop that run the other loop, and subscribe their own handlers on its bus."""

from other_bus_base import Evaluation, Evaluations

from d9d.loop.control import RegisterTaskEventsContext, TrainTask
from d9d.loop.event import EventBus, subscribe, subscribe_annotated
from d9d.loop.event.catalogue.inference import EVENT_INFERENCE_STEP_POST
from d9d.loop.event.catalogue.train import EVENT_TRAIN_STEP_POST, EventStepContext


class Registering(TrainTask):
    def register_events(self, ctx: RegisterTaskEventsContext) -> None:
        subscribe_annotated(ctx.event_bus, self)


class RightInAHandler(Registering):
    """Starts an inference in the middle of the training."""

    @subscribe(EVENT_TRAIN_STEP_POST, every=1000)
    def evaluate(self, ctx: EventStepContext) -> None:
        inference = Evaluation()
        subscribe_annotated(inference.event_bus, self)

    @subscribe(EVENT_INFERENCE_STEP_POST)
    def on_inference_step(self, ctx: EventStepContext) -> None: ...


class RightKept(TrainTask):
    """Makes the inference before the training, and registers on both buses at once."""

    def __init__(self) -> None:
        self._inference = Evaluation()

    def register_events(self, ctx: RegisterTaskEventsContext) -> None:
        subscribe_annotated(ctx.event_bus, self)
        subscribe_annotated(self._inference.event_bus, self)

    @subscribe(EVENT_INFERENCE_STEP_POST)
    def on_inference_step(self, ctx: EventStepContext) -> None: ...


class RightByHand(Registering):
    def prepare(self, inference_bus: EventBus) -> None:
        inference_bus.subscribe(EVENT_INFERENCE_STEP_POST, self.on_inference_step)

    @subscribe(EVENT_INFERENCE_STEP_POST)
    def on_inference_step(self, ctx: EventStepContext) -> None: ...


class RightInherited(Evaluations, Registering):
    """Its base class, in another module, runs the inference."""

    @subscribe(EVENT_INFERENCE_STEP_POST)
    def on_inference_step(self, ctx: EventStepContext) -> None: ...


class WrongByHelper(TrainTask):
    """The bus of the helper is that of the training."""

    def register_events(self, ctx: RegisterTaskEventsContext) -> None:
        self._register(ctx.event_bus)

    def _register(self, bus: EventBus) -> None:
        subscribe_annotated(bus, self)

    # E[d9d-scope]: Handler "on_step" of EVENT_INFERENCE_STEP_POST ("inference.step.post") is never called: the training
    #   loop runs "WrongByHelper", and only the inference loop triggers this event. Did you mean EVENT_TRAIN_STEP_POST?
    @subscribe(EVENT_INFERENCE_STEP_POST)
    def on_step(self, ctx: EventStepContext) -> None: ...


class WrongOther(Registering):
    """Another object listens to the inference."""

    def evaluate(self, inference_bus: EventBus) -> None:
        # E[d9d-target]: subscribe_annotated is called with an object of "Evaluation", which has no method with
        #   @subscribe, so nothing is subscribed: decorate its handlers, or subscribe them with bus.subscribe
        subscribe_annotated(inference_bus, Evaluation())

    # E[d9d-scope]: Handler "on_step" of EVENT_INFERENCE_STEP_POST ("inference.step.post") is never called: the training
    #   loop runs "WrongOther", and only the inference loop triggers this event. Did you mean EVENT_TRAIN_STEP_POST?
    @subscribe(EVENT_INFERENCE_STEP_POST)
    def on_step(self, ctx: EventStepContext) -> None: ...


class WrongOtherHandler(Registering):
    """Only one of the two handlers is subscribed on the other bus."""

    def evaluate(self, inference_bus: EventBus) -> None:
        inference_bus.subscribe(EVENT_INFERENCE_STEP_POST, self.on_step)

    @subscribe(EVENT_INFERENCE_STEP_POST)
    def on_step(self, ctx: EventStepContext) -> None: ...

    # E[d9d-scope]: Handler "on_other_step" of EVENT_INFERENCE_STEP_POST ("inference.step.post") is never called: the
    #   training loop runs "WrongOtherHandler", and only the inference loop triggers this event. Did you mean
    #   EVENT_TRAIN_STEP_POST?
    @subscribe(EVENT_INFERENCE_STEP_POST)
    def on_other_step(self, ctx: EventStepContext) -> None: ...
