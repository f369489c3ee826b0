"""`subscribers=` of both configurators, and the check that no handler of a run is dead."""

import inspect
import logging
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from d9d import (
    CheckpointingConfig,
    ConfigurationError,
    CreateMetricsContext,
    Event,
    EventBus,
    Metric,
    RegisterModelEventsContext,
    RegisterTaskEventsContext,
    SumMetric,
    subscribe,
    subscribe_annotated,
)
from d9d.loop.event.catalogue.common import EventCheckpointContext, EventReportReadyContext, EventStepContext
from d9d.loop.event.catalogue.inference import EVENT_INFERENCE_READY, EVENT_INFERENCE_STEP_POST
from d9d.loop.event.catalogue.train import (
    EVENT_TRAIN_CHECKPOINT_SAVED,
    EVENT_TRAIN_CLOSED,
    EVENT_TRAIN_CONFIG_STARTED,
    EVENT_TRAIN_READY,
    EVENT_TRAIN_REPORT_READY,
    EVENT_TRAIN_STEP_POST,
    EVENT_TRAIN_STEP_PRE,
    EventConfigurationStartedContext,
    EventTrainReadyContext,
)
from d9d.loop.run import Inference, InferenceConfigurator, Trainer, TrainingConfigurator
from d9d.loop.run.subscribers import SubscriberSource

from .toy_job import (
    QUIET,
    ToyDatasetProvider,
    ToyInferenceTask,
    ToyModelProvider,
    ToyTask,
    inference_config,
    training_config,
)


class Counter:
    """Counts steps, and has them as its state."""

    def __init__(self) -> None:
        self.num_steps = 0

    @subscribe(EVENT_TRAIN_STEP_POST)
    def count(self, ctx: EventStepContext) -> None:
        self.num_steps += 1

    def state_dict(self) -> dict[str, Any]:
        return {"num_steps": self.num_steps}

    def load_state_dict(self, state_dict: dict[str, Any], /) -> None:
        self.num_steps = state_dict["num_steps"]


class Plain:
    """Has no handlers."""


def configure(
    subscribers: SubscriberSource = (),
    *,
    task: ToyTask | None = None,
    model_provider: ToyModelProvider | None = None,
    **settings: Any,
) -> Trainer:
    """Configure training with some subscribers."""
    return TrainingConfigurator(
        config=training_config(**settings),
        task=task or ToyTask(),
        model_provider=model_provider or ToyModelProvider(),
        dataset_provider=ToyDatasetProvider(),
        subscribers=subscribers,
    ).configure()


def configure_inference(subscribers: SubscriberSource) -> Inference:
    """Configure inference with some subscribers."""
    return InferenceConfigurator(
        config=inference_config(),
        task=ToyInferenceTask(),
        model_provider=ToyModelProvider(),
        dataset_provider=ToyDatasetProvider(),
        subscribers=subscribers,
    ).configure()


def refused(action: Callable[[], object]) -> list[str]:
    """Return the problems that `configure` lists."""
    with pytest.raises(ConfigurationError, match="not all handlers of this run can be called") as caught:
        action()
    return [line.removeprefix("- ") for line in str(caught.value).splitlines()[1:]]


def place(function: Callable[..., Any]) -> str:
    """Return how errors name where a function begins."""
    return re.escape(f"({function.__code__.co_filename}:{function.__code__.co_firstlineno})")


def test_subscribers_are_registered_after_task_and_model_provider_in_their_order() -> None:
    """One with `register_events` gets the context of a task; any other is scanned for `@subscribe`."""
    seen: list[str] = []

    class Provider(ToyModelProvider):
        def register_events(self, ctx: RegisterModelEventsContext) -> None:
            ctx.event_bus.subscribe(EVENT_TRAIN_STEP_PRE, lambda _: seen.append("provider"))

    class Registers:
        def register_events(self, ctx: RegisterTaskEventsContext) -> None:
            assert ctx.dist_context.world_size == 1
            self.control = ctx.control
            ctx.event_bus.subscribe(EVENT_TRAIN_STEP_PRE, lambda _: seen.append("registers"))

    class Decorated:
        @subscribe(EVENT_TRAIN_STEP_PRE)
        def note(self, ctx: EventStepContext) -> None:
            seen.append("decorated")
            assert ctx.control is registers.control

    registers = Registers()
    task = ToyTask(lambda bus: bus.subscribe(EVENT_TRAIN_STEP_PRE, lambda _: seen.append("task")))
    configure([Decorated(), registers], task=task, model_provider=Provider(), total_steps=1).train()

    assert seen == ["task", "provider", "decorated", "registers"]


def test_inference_has_subscribers_too() -> None:
    """By the same rules."""
    seen: list[int] = []

    class Listener:
        @subscribe(EVENT_INFERENCE_STEP_POST, every=2)
        def note(self, ctx: EventStepContext) -> None:
            seen.append(ctx.stepper.current_step)

    configure_inference({"listener": Listener()}).infer()

    assert seen == [1, 2]


def test_a_subscriber_adds_numbers_to_the_reports() -> None:
    """With `create_metrics`, as a task."""
    reports: list[Mapping[str, float]] = []

    class Samples:
        def create_metrics(self, ctx: CreateMetricsContext) -> Mapping[str, Metric]:
            self.num_steps = SumMetric(ctx.dist_context.device)
            return {"num_steps": self.num_steps}

        @subscribe(EVENT_TRAIN_STEP_POST)
        def count(self, ctx: EventStepContext) -> None:
            self.num_steps.update(torch.tensor(1.0))

        @subscribe(EVENT_TRAIN_REPORT_READY)
        def note(self, ctx: EventReportReadyContext) -> None:
            reports.append(ctx.report.metrics)

    reporting = QUIET.model_copy(update={"period_steps": 3})
    configure([Samples()], total_steps=3, reporting=reporting).train()

    assert len(reports) == 1
    assert "loss" in reports[0]
    assert "num_steps" in reports[0]


def test_two_metrics_of_one_name_are_refused() -> None:
    """One of them would hide the other."""

    class Named(Counter):
        def create_metrics(self, ctx: CreateMetricsContext) -> Mapping[str, Metric]:
            return {"same": SumMetric(ctx.dist_context.device)}

    with pytest.raises(
        ConfigurationError, match=r"Named\.create_metrics names a metric 'same', but the task or another"
    ):
        configure({"one": Named(), "other": Named()})


def in_list(counter: Counter) -> SubscriberSource:
    return [counter]


def under_a_name(counter: Counter) -> SubscriberSource:
    return {"mine": counter}


@pytest.mark.parametrize("wrap", [in_list, under_a_name])
def test_the_state_of_a_subscriber_is_in_checkpoints(
    tmp_path: Path, wrap: Callable[[Counter], SubscriberSource]
) -> None:
    """A run that is resumed has it again."""
    checkpointing = CheckpointingConfig(folder=tmp_path)
    configure(wrap(Counter()), checkpointing=checkpointing, total_steps=3).train()

    resumed = Counter()
    configure(wrap(resumed), checkpointing=checkpointing, total_steps=3).train()

    assert resumed.num_steps == 3


def test_the_state_of_a_subscriber_belongs_to_its_name(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Under another name it is not found again."""
    checkpointing = CheckpointingConfig(folder=tmp_path)
    configure({"mine": Counter()}, checkpointing=checkpointing, total_steps=3).train()

    resumed = Counter()
    configure({"other": resumed}, checkpointing=checkpointing, total_steps=3).train()

    assert resumed.num_steps == 0
    assert "'subscriber mine'" in caplog.text
    assert "'subscriber other'" in caplog.text


def test_two_subscribers_of_one_class_with_state_need_names() -> None:
    """In a list, reordering would swap their states."""
    with pytest.raises(ConfigurationError, match=r"two objects of class .*Counter with state.*name them in a mapping"):
        configure([Counter(), Counter()])

    configure({"one": Counter(), "other": Counter()})


@pytest.mark.parametrize(
    ("subscribers", "reason"),
    [
        (Counter(), r"takes a list or a mapping of objects, but found .*Counter object"),
        ("counter", r"takes a list or a mapping of objects, but found 'counter'"),
        ([Counter], r"takes objects, but found the class Counter: pass Counter\(\.\.\.\)"),
        ([subject := Plain(), subject], r"has .*Plain object .* twice: remove one"),
    ],
)
def test_what_is_no_list_of_objects_is_refused(subscribers: Any, reason: str) -> None:
    """The error says what to write."""
    with pytest.raises(ConfigurationError, match=reason):
        configure(subscribers)


class Forgetful(ToyTask):
    """Registers nothing."""

    def register_events(self, ctx: RegisterTaskEventsContext) -> None:
        """Forget it."""

    @subscribe(EVENT_TRAIN_READY)  # type: ignore[d9d-unregistered]  # is tested
    def on_ready(self, ctx: EventTrainReadyContext) -> None: ...

    @subscribe(EVENT_TRAIN_STEP_POST, optional=True)
    def on_step(self, ctx: EventStepContext) -> None: ...


def test_a_decorated_handler_that_nothing_subscribes_is_refused_before_the_model_is_built() -> None:
    """The error names the handler with its place, and what to do. `optional=True` opts out."""
    provider = ToyModelProvider()

    (problem,) = refused(lambda: configure(task=Forgetful(), model_provider=provider))

    assert re.match(
        rf".*Forgetful\.on_ready {place(Forgetful.on_ready)} of the task has @subscribe for event 'train\.ready', but "
        r"no process has subscribed it: call subscribe_annotated with the object in register_events, or write "
        r"@subscribe\(\.\.\., optional=True\)",
        problem,
    )
    assert provider.num_built == 0


def test_handlers_of_providers_count_too() -> None:
    """A dataset provider may listen as well, if the task registers it."""

    class Listening(ToyDatasetProvider):
        @subscribe(EVENT_TRAIN_READY)
        def on_ready(self, ctx: EventTrainReadyContext) -> None: ...

    dataset = Listening()

    def configure_with(task: ToyTask) -> Trainer:
        return TrainingConfigurator(
            config=training_config(), task=task, model_provider=ToyModelProvider(), dataset_provider=dataset
        ).configure()

    (problem,) = refused(lambda: configure_with(ToyTask()))
    assert "of the dataset_provider has @subscribe" in problem
    configure_with(ToyTask(lambda bus: bus.subscribe(EVENT_TRAIN_READY, dataset.on_ready)))


def test_a_handler_that_has_run_once_counts_as_subscribed() -> None:
    """Its subscription has ended when the check is made."""
    seen: list[str] = []

    class Listener:
        @subscribe(EVENT_TRAIN_CONFIG_STARTED, once=True)
        def start(self, ctx: EventConfigurationStartedContext) -> None:
            seen.append("started")

    configure([Listener()])

    assert seen == ["started"]


def test_handlers_of_events_that_the_loop_never_triggers_are_refused() -> None:
    """Those of the other loop, and ids that a catalogue owns and does not declare."""
    stray = Event[EventStepContext](id="train.steps.post")  # type: ignore[d9d-event-id]  # what is tested

    def listen(bus: EventBus) -> None:
        bus.subscribe(EVENT_INFERENCE_READY, ignore)
        bus.subscribe(stray, ignore)
        bus.subscribe(Event[int](id="user.anything"), ignore)

    other, undeclared = refused(lambda: configure(task=ToyTask(listen)))

    assert re.match(
        rf".*ignore {place(ignore)} listens to event 'inference\.ready', which this loop never triggers: it is an "
        r"event of the inference loop",
        other,
    )
    assert "listens to event 'train.steps.post', which no catalogue declares, although one owns the" in undeclared


def ignore(ctx: object) -> None:
    """Do nothing."""


def test_an_object_of_both_loops_says_so() -> None:
    """With `optional=True`."""

    class Both:
        @subscribe(EVENT_INFERENCE_STEP_POST, optional=True)
        @subscribe(EVENT_TRAIN_STEP_POST, optional=True)
        def note(self, ctx: EventStepContext) -> None:
            seen.append(ctx.stepper.current_step)

    seen: list[int] = []
    configure([Both()], total_steps=1).train()
    configure_inference([Both()]).infer()

    assert seen == [0, 0, 1, 2]


def test_other_dead_handlers_are_all_in_one_error() -> None:
    """A handler that is subscribed twice, and objects without handlers, with the place of each."""

    def listen(bus: EventBus) -> None:
        bus.subscribe(EVENT_TRAIN_STEP_POST, counter.count)
        bus.subscribe(EVENT_TRAIN_STEP_POST, counter.count)
        subscribe_annotated(bus, Plain())

    counter = Counter()
    line = listen.__code__.co_firstlineno + 3

    without_handlers, twice, annotated = refused(lambda: configure([Plain()], task=ToyTask(listen)))

    assert "Plain'" in without_handlers
    assert "has neither register_events nor a method with @subscribe" in without_handlers
    assert re.match(
        rf".*Counter\.count {place(Counter.count)} is subscribed twice for event 'train\.step\.post'", twice
    )
    assert annotated.startswith(
        f"subscribe_annotated in {__file__}:{line} is given an object of class {__name__}.Plain"
    )


def test_an_object_that_is_subscribed_twice_is_listed_with_the_other_dead_handlers() -> None:
    """The error has the places of both calls, or says that one of them is `subscribers=`."""

    def listen(bus: EventBus) -> None:
        subscribe_annotated(bus, twice)
        subscribe_annotated(bus, also_passed)
        subscribe_annotated(bus, twice)

    twice, also_passed = Counter(), Counter()
    line = listen.__code__.co_firstlineno + 1

    problems = refused(lambda: configure([also_passed, Plain()], task=ToyTask(listen)))

    kind = f"an object of class {__name__}.Counter ({__file__}:{inspect.getsourcelines(Counter)[1]})"
    with_counter = f"subscribes the handlers of {kind}, which"
    and_so = "has subscribed already, so they would be called"
    calls = [f"subscribe_annotated in {__file__}:{line + number}" for number in range(3)]
    assert problems[0] == f"{calls[2]} {with_counter} {calls[0]} {and_so} twice: remove one of the two"
    assert problems[1] == f"the argument subscribers= {with_counter} {calls[1]} {and_so} twice: remove one of the two"
    assert "subscriber 'Plain'" in problems[2]
    assert len(problems) == 3  # each handler is subscribed once, so none is listed by itself


def test_an_object_that_is_subscribed_again_after_configuration_is_refused_at_once() -> None:
    """There is no later check that could list it."""
    counter = Counter()
    trainer = configure([counter])

    with pytest.raises(ValueError, match="are already subscribed on this bus and would run twice per event"):
        subscribe_annotated(trainer.event_bus, counter)


def test_handlers_that_this_configuration_never_calls_are_logged_in_one_line(caplog: pytest.LogCaptureFixture) -> None:
    """They are legal: a tracker serves many configurations."""

    class Tracker:
        @subscribe(EVENT_TRAIN_CHECKPOINT_SAVED)
        def saved(self, ctx: EventCheckpointContext) -> None: ...

        @subscribe(EVENT_TRAIN_REPORT_READY)
        def report(self, ctx: EventReportReadyContext) -> None: ...

    with caplog.at_level(logging.INFO, "d9d.loop.run.subscribers"):
        configure([Tracker()])
        (record,) = caplog.records
        configure([Counter()])

    assert "Tracker.saved" in record.message
    assert "of event 'train.checkpoint.saved' will not be called, since the run has no checkpointing" in record.message
    assert "of event 'train.report.ready' will not be called, since reporting.period_steps is None" in record.message
    assert caplog.records == [record]


@pytest.mark.parametrize("event", [EVENT_TRAIN_CONFIG_STARTED, EVENT_TRAIN_READY])
def test_a_subscription_to_a_moment_that_has_passed_is_refused(event: Event[Any]) -> None:
    """The handler would never be called."""
    trainer = configure(total_steps=1)
    refusals: list[str] = []

    def subscribe_late(ctx: EventStepContext) -> None:
        with pytest.raises(
            ValueError, match=rf"{place(ignore)} subscribes to event '{event.id}', which has passed"
        ) as late:
            trainer.event_bus.subscribe(event, ignore)
        refusals.append(str(late.value))
        trainer.event_bus.subscribe(EVENT_TRAIN_CLOSED, ignore)

    trainer.event_bus.subscribe(EVENT_TRAIN_STEP_POST, subscribe_late)
    trainer.train()

    assert len(refusals) == 1


def test_an_event_of_the_other_loop_is_refused_after_the_check_too() -> None:
    """The handler would never be called, whenever it subscribes."""
    trainer = configure(total_steps=1)

    with pytest.raises(ValueError, match="which this loop never triggers: it is an event of the inference loop"):
        trainer.event_bus.subscribe(EVENT_INFERENCE_STEP_POST, ignore)


def test_a_moment_to_come_can_be_subscribed_to_after_configuration() -> None:
    """Such as the beginning of training."""
    seen: list[str] = []
    trainer = configure(total_steps=1)
    trainer.event_bus.subscribe(EVENT_TRAIN_READY, lambda _: seen.append("ready"))

    trainer.train()

    assert seen == ["ready"]


def test_a_late_handler_of_an_object_with_state_is_refused(tmp_path: Path) -> None:
    """Its state would not be in checkpoints. Without checkpointing there is nothing to miss."""
    configure().event_bus.subscribe(EVENT_TRAIN_STEP_POST, Counter().count)
    saved = Counter()
    trainer = configure([saved], checkpointing=CheckpointingConfig(folder=tmp_path))
    trainer.event_bus.subscribe(EVENT_TRAIN_STEP_PRE, saved.count)

    with pytest.raises(ValueError, match=r"Counter\.count .* has state that is not in checkpoints: pass the object to"):
        trainer.event_bus.subscribe(EVENT_TRAIN_STEP_POST, Counter().count)
