"""Tasks that handle events of the other loop, and tasks that handle those of their own loop."""

import lab.events.trial
import moments.inference
from lab.events.trial import EVENT_TRIAL_ROUND_POST, EventRoundContext
from moments.common import EventStepContext as MomentContext
from scope_base import InferenceLog, Log, RegisteringTask, StepLog, TrainLog

from d9d.loop.control import (
    BaseTask,
    InferenceTask,
    InitializeModelStageContext,
    InitializeModelStageResult,
    ModelProvider,
    ProcessOutputsContext,
    RegisterModelEventsContext,
    RegisterTaskEventsContext,
    TrainTask,
)
from d9d.loop.event import Event, EventBus, subscribe, subscribe_annotated
from d9d.loop.event.catalogue import inference
from d9d.loop.event.catalogue.inference import EVENT_INFERENCE_FINISHED as EVENT_DONE
from d9d.loop.event.catalogue.inference import (
    EVENT_INFERENCE_FORWARD_POST,
    EVENT_INFERENCE_READY,
    EVENT_INFERENCE_STEP_POST,
    EventInferenceFinishedContext,
    EventInferenceReadyContext,
)
from d9d.loop.event.catalogue.train import (
    EVENT_TRAIN_OPTIMIZER_READY,
    EVENT_TRAIN_READY,
    EVENT_TRAIN_STEP_POST,
    EVENT_TRAIN_STEP_PRE,
    EventOptimizerReadyContext,
    EventStepContext,
    EventTrainReadyContext,
)

EVENT_OWN: Event[EventStepContext] = Event(id="user.own")


def show(*values: object) -> None: ...


# docs: d9d-scope
class WrongLoop(TrainTask):
    def register_events(self, ctx: RegisterTaskEventsContext) -> None:
        subscribe_annotated(ctx.event_bus, self)

    # E[d9d-scope]: Handler "on_step" of EVENT_INFERENCE_STEP_POST ("inference.step.post") is never called: the training
    #   loop runs "WrongLoop", and only the inference loop triggers this event. Did you mean EVENT_TRAIN_STEP_POST?
    @subscribe(EVENT_INFERENCE_STEP_POST)
    def on_step(self, ctx: EventStepContext) -> None: ...


class RightLoop(TrainTask):
    def register_events(self, ctx: RegisterTaskEventsContext) -> None:
        subscribe_annotated(ctx.event_bus, self)

    @subscribe(EVENT_TRAIN_STEP_POST)
    def on_step(self, ctx: EventStepContext) -> None: ...


# docs: end


class WrongInference(InferenceTask):
    def register_events(self, ctx: RegisterTaskEventsContext) -> None:
        subscribe_annotated(ctx.event_bus, self)

    def process_outputs(self, ctx: ProcessOutputsContext) -> None: ...

    # E[d9d-scope]: Handler "on_optimizer" of EVENT_TRAIN_OPTIMIZER_READY ("train.configuration.optimizer") is never
    #   called: the inference loop runs "WrongInference", and only the training loop triggers this event. Handle it in a
    #   subclass of TrainTask
    @subscribe(EVENT_TRAIN_OPTIMIZER_READY)
    def on_optimizer(self, ctx: EventOptimizerReadyContext) -> None: ...

    # E[d9d-scope]: Handler "on_ready" of EVENT_TRAIN_READY ("train.ready") is never called: the inference loop runs
    #   "WrongInference", and only the training loop triggers this event. Did you mean EVENT_INFERENCE_READY?
    @subscribe(EVENT_TRAIN_READY)
    def on_ready(self, ctx: EventTrainReadyContext) -> None: ...

    @subscribe(EVENT_INFERENCE_READY)
    def right(self, ctx: EventInferenceReadyContext) -> None: ...


class WrongStacked(RegisteringTask):
    @subscribe(EVENT_TRAIN_STEP_POST)
    # E[d9d-scope]: Handler "on_step" of EVENT_INFERENCE_STEP_POST ("inference.step.post") is never called: the training
    #   loop runs "WrongStacked", and only the inference loop triggers this event. Did you mean EVENT_TRAIN_STEP_POST?
    @subscribe(EVENT_INFERENCE_STEP_POST)
    def on_step(self, ctx: EventStepContext) -> None: ...

    # E[d9d-scope]: Handler "on_done" of EVENT_INFERENCE_FINISHED ("inference.finished") is never called: the training
    #   loop runs "WrongStacked", and only the inference loop triggers this event. Did you mean EVENT_TRAIN_FINISHED?
    @subscribe(EVENT_DONE)
    def on_done(self, ctx: EventInferenceFinishedContext) -> None: ...

    # E[d9d-scope]: Handler "<lambda>" of EVENT_INFERENCE_FORWARD_POST ("inference.forward.post") is never called: the
    #   training loop runs "WrongStacked", and only the inference loop triggers this event. Handle it in a subclass of
    #   InferenceTask
    on_forward = subscribe(inference.EVENT_INFERENCE_FORWARD_POST)(lambda self, ctx: show(ctx.stepper))

    # E[d9d-scope]: Handler "on_static" of EVENT_INFERENCE_STEP_POST ("inference.step.post") is never called: the
    #   training loop runs "WrongStacked", and only the inference loop triggers this event. Did you mean
    #   EVENT_TRAIN_STEP_POST?
    @subscribe(EVENT_INFERENCE_STEP_POST)
    @staticmethod
    def on_static(ctx: EventStepContext) -> None: ...


class ToldByAnotherCheck(RegisteringTask):
    # E[d9d-handler]: Handler "on_ready" of EVENT_INFERENCE_READY ("inference.ready") takes "EventTrainReadyContext",
    #   but the event carries "EventInferenceReadyContext": annotate "ctx" with "EventInferenceReadyContext". Did you
    #   mean the event EVENT_TRAIN_READY?
    # E[d9d-scope]: Handler "on_ready" of EVENT_INFERENCE_READY ("inference.ready") is never called: the training loop
    #   runs "ToldByAnotherCheck", and only the inference loop triggers this event. Did you mean EVENT_TRAIN_READY?
    @subscribe(EVENT_INFERENCE_READY)
    def on_ready(self, ctx: EventTrainReadyContext) -> None: ...


# E[d9d-scope]: Handler "log_forward" of EVENT_INFERENCE_FORWARD_POST ("inference.forward.post") is never called: the
#   training loop runs "WrongMixin", and only the inference loop triggers this event. Handle it in a subclass of
#   InferenceTask
# E[d9d-scope]: Handler "log_step" of EVENT_INFERENCE_STEP_POST ("inference.step.post") is never called: the training
#   loop runs "WrongMixin", and only the inference loop triggers this event. Did you mean EVENT_TRAIN_STEP_POST?
class WrongMixin(InferenceLog, RegisteringTask): ...


class ToldOfItsBase(WrongMixin):
    @subscribe(EVENT_TRAIN_STEP_PRE)
    def right(self, ctx: EventStepContext) -> None: ...


class WrongCalls(TrainTask):
    def register_events(self, ctx: RegisterTaskEventsContext) -> None:
        # E[d9d-scope]: Handler "on_step" of EVENT_INFERENCE_STEP_POST ("inference.step.post") is never called: the
        #   training loop runs "WrongCalls", and only the inference loop triggers this event. Did you mean
        #   EVENT_TRAIN_STEP_POST?
        ctx.event_bus.subscribe(EVENT_INFERENCE_STEP_POST, self.on_step)
        ctx.event_bus.subscribe(EVENT_TRAIN_STEP_POST, self.on_step)
        # E[d9d-scope]: Handler "<lambda>" of EVENT_INFERENCE_READY ("inference.ready") is never called: the training
        #   loop runs "WrongCalls", and only the inference loop triggers this event. Did you mean EVENT_TRAIN_READY?
        ctx.event_bus.subscribe(handler=lambda ready: show(ready, 1), event=EVENT_INFERENCE_READY)
        bus = ctx.event_bus
        if __debug__:
            bus.subscribe(EVENT_DONE, show)
        self._register_more(ctx)

    def _register_more(self, context: RegisterTaskEventsContext) -> None:
        # E[d9d-scope]: Handler "on_step" of EVENT_INFERENCE_FORWARD_POST ("inference.forward.post") is never called:
        #   the training loop runs "WrongCalls", and only the inference loop triggers this event. Handle it in a
        #   subclass of InferenceTask
        context.event_bus.subscribe(EVENT_INFERENCE_FORWARD_POST, self.on_step)

    def on_step(self, ctx: EventStepContext) -> None: ...


def local() -> None:
    class WrongLocal(RegisteringTask):
        # E[d9d-scope]: Handler "on_step" of EVENT_INFERENCE_STEP_POST ("inference.step.post") is never called: the
        #   training loop runs "WrongLocal", and only the inference loop triggers this event. Did you mean
        #   EVENT_TRAIN_STEP_POST?
        @subscribe(EVENT_INFERENCE_STEP_POST)
        def on_step(self, ctx: EventStepContext) -> None: ...


class RightForBoth(TrainTask, InferenceTask):
    def register_events(self, ctx: RegisterTaskEventsContext) -> None:
        subscribe_annotated(ctx.event_bus, self)

    def process_outputs(self, ctx: ProcessOutputsContext) -> None: ...

    @subscribe(EVENT_TRAIN_STEP_POST)
    @subscribe(EVENT_INFERENCE_STEP_POST)
    def on_step(self, ctx: EventStepContext) -> None: ...


class RightProvider(ModelProvider):
    def register_events(self, ctx: RegisterModelEventsContext) -> None:
        subscribe_annotated(ctx.event_bus, self)
        ctx.event_bus.subscribe(EVENT_INFERENCE_READY, show)
        ctx.event_bus.subscribe(EVENT_TRAIN_READY, show)

    def initialize_model_stage(self, ctx: InitializeModelStageContext) -> InitializeModelStageResult:
        raise NotImplementedError

    @subscribe(EVENT_TRAIN_STEP_POST)
    @subscribe(EVENT_INFERENCE_STEP_POST)
    def on_step(self, ctx: EventStepContext) -> None: ...


class RightTaskWithMixin(TrainLog, RegisteringTask): ...


class RightTaskOfMixinForBoth(Log, RegisteringTask): ...


class RightTaskOfMethodForBoth(StepLog, RegisteringTask): ...


class RightOverride(InferenceLog, RegisteringTask):
    @subscribe(EVENT_TRAIN_STEP_POST)
    def log_step(self, ctx: EventStepContext) -> None: ...

    @subscribe(EVENT_TRAIN_STEP_PRE)
    def log_forward(self, ctx: EventStepContext) -> None: ...


class OtherEvents(RegisteringTask):
    # E[d9d-untriggered]: Nothing triggers EVENT_OWN ("user.own"), so its handlers are never called: trigger it where it
    #   happens, with bus.trigger or an emitter
    @subscribe(EVENT_OWN)
    def on_own(self, ctx: EventStepContext) -> None: ...

    @subscribe(EVENT_TRIAL_ROUND_POST)
    def on_round(self, ctx: EventRoundContext) -> None: ...

    @subscribe(lab.events.trial.EVENT_TRIAL_ROUND_PRE)
    def on_round_pre(self, ctx: EventRoundContext) -> None: ...

    @subscribe(moments.inference.EVENT_INFERENCE_STEP_POST)
    def on_moment(self, ctx: MomentContext) -> None: ...


class RightWithABusOfItsOwn(TrainTask):
    """Runs its own inference loop, on a bus that is not the one of training."""

    def __init__(self, evaluation_bus: EventBus) -> None:
        self._evaluation_bus = evaluation_bus
        evaluation_bus.subscribe(EVENT_INFERENCE_STEP_POST, self.on_evaluated)

    def register_events(self, ctx: RegisterTaskEventsContext) -> None:
        bus = ctx.event_bus
        bus.subscribe(EVENT_TRAIN_STEP_POST, show)
        bus = EventBus()
        bus.subscribe(EVENT_INFERENCE_STEP_POST, self.on_evaluated)
        self._evaluation_bus.subscribe(EVENT_INFERENCE_READY, show)
        for event in (EVENT_TRAIN_STEP_PRE, EVENT_TRAIN_STEP_POST):
            ctx.event_bus.subscribe(event, self.evaluate)

    def evaluate(self, ctx: EventStepContext) -> None: ...

    def on_evaluated(self, ctx: EventStepContext) -> None: ...


class RightPlainClass:
    @subscribe(EVENT_TRAIN_STEP_POST)
    @subscribe(EVENT_INFERENCE_STEP_POST)
    def on_step(self, ctx: EventStepContext) -> None: ...

    def register_events(self, ctx: RegisterTaskEventsContext) -> None:
        ctx.event_bus.subscribe(EVENT_INFERENCE_READY, show)
        ctx.event_bus.subscribe(EVENT_TRAIN_READY, show)


class BothLoops(BaseTask):
    """What tasks of both loops derive from."""

    def register_events(self, ctx: RegisterTaskEventsContext) -> None:
        subscribe_annotated(ctx.event_bus, self)

    @subscribe(EVENT_TRAIN_STEP_POST, optional=True)
    def on_train_step(self, ctx: EventStepContext) -> None: ...

    @subscribe(EVENT_INFERENCE_STEP_POST, optional=True)
    def on_inference_step(self, ctx: EventStepContext) -> None: ...


class RightTrainTaskOfBothLoops(BothLoops, TrainTask): ...


class RightInferenceTaskOfBothLoops(BothLoops, InferenceTask):
    def process_outputs(self, ctx: ProcessOutputsContext) -> None: ...


class RightWithANestedTask(TrainTask):
    """Evaluates by a loop of inference, whose task is defined where the training is prepared."""

    def register_events(self, ctx: RegisterTaskEventsContext) -> None:
        class Evaluation(InferenceTask):
            def register_events(self, ctx: RegisterTaskEventsContext) -> None:
                ctx.event_bus.subscribe(EVENT_INFERENCE_READY, show)

            def process_outputs(self, ctx: ProcessOutputsContext) -> None: ...

        self._evaluation = Evaluation()

        def prepare(bus: EventBus) -> None:
            bus.subscribe(EVENT_INFERENCE_READY, show)

        self._prepare = prepare
