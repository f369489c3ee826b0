"""Each event of inference is triggered at the moment that its documentation names."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from declared import events_of

from d9d.core.dist_context import DistributedContext
from d9d.loop.config import CheckpointingConfig
from d9d.loop.control import (
    InitializeDatasetContext,
    InitializeDatasetResult,
    InitializeModelStageContext,
    InitializeModelStageResult,
    ParallelizeModelStageContext,
    ProcessOutputsContext,
)
from d9d.loop.event import Event, EventBus
from d9d.loop.event.catalogue import inference
from d9d.loop.event.catalogue.inference import (
    EVENT_INFERENCE_CONFIG_STARTED,
    EVENT_INFERENCE_DATA_LOADER_READY,
    EVENT_INFERENCE_FINISHED,
    EVENT_INFERENCE_FORWARD_POST,
    EVENT_INFERENCE_FORWARD_PRE,
    EVENT_INFERENCE_MODEL_STAGES_READY,
    EVENT_INFERENCE_READY,
    EVENT_INFERENCE_STEP_POST,
    EVENT_INFERENCE_STEP_PRE,
    EventConfigurationStartedContext,
    EventDataLoaderReadyContext,
    EventModelStagesReadyContext,
    EventStepContext,
)
from d9d.loop.run import Inference, InferenceConfigurator

from .toy_job import (
    Sample,
    StoppedError,
    ToyDataset,
    ToyInferenceTask,
    ToyModelProvider,
    configure_inference,
    configure_training,
    inference_config,
    same_tensors,
    steps_saved,
    training_config,
    weights_of,
)

STEP_EVENTS = [event for event in events_of(inference) if event.id.endswith((".pre", ".post"))]


def observe(run: Inference, look: Callable[[], Any], *events: Event[EventStepContext]) -> dict[str, list[Any]]:
    """Run inference, and record what `look` returns at each event, step by step."""

    def noting(sights: list[Any]) -> Callable[[EventStepContext], None]:
        return lambda ctx: sights.append(look())

    seen: dict[str, list[Any]] = {event.id: [] for event in events}
    for event in events:
        run.event_bus.subscribe(event, noting(seen[event.id]))
    run.infer()
    return seen


def test_each_ready_event_follows_the_construction_of_its_part() -> None:
    """Each part is built, and its event is triggered right after."""
    diary: list[str] = []

    class DiaryModelProvider(ToyModelProvider):
        def initialize_model_stage(self, ctx: InitializeModelStageContext) -> InitializeModelStageResult:
            diary.append("model is built")
            return super().initialize_model_stage(ctx)

        def parallelize_model_stage(self, ctx: ParallelizeModelStageContext) -> None:
            diary.append("model is parallelised")

    def provide_dataset(ctx: InitializeDatasetContext) -> InitializeDatasetResult:
        diary.append("dataset is built")
        return InitializeDatasetResult(dataset=ToyDataset())

    def listen(bus: EventBus) -> None:
        bus.subscribe(EVENT_INFERENCE_CONFIG_STARTED, lambda ctx: diary.append("CONFIG_STARTED"))
        bus.subscribe(EVENT_INFERENCE_DATA_LOADER_READY, lambda ctx: diary.append("DATA_LOADER_READY"))
        bus.subscribe(EVENT_INFERENCE_MODEL_STAGES_READY, lambda ctx: diary.append("MODEL_STAGES_READY"))

    InferenceConfigurator(
        config=inference_config(),
        task=ToyInferenceTask(listen),
        model_provider=DiaryModelProvider(),
        dataset_provider=provide_dataset,
    ).configure()

    assert diary == [
        "CONFIG_STARTED",
        "dataset is built",
        "DATA_LOADER_READY",
        "model is built",
        "model is parallelised",
        "MODEL_STAGES_READY",
    ]


def test_contexts_hold_the_objects_that_inference_uses() -> None:
    """Handlers receive the loop's own data loader and model, not copies."""
    contexts: list[object] = []

    def listen(bus: EventBus) -> None:
        bus.subscribe(EVENT_INFERENCE_CONFIG_STARTED, contexts.append)
        bus.subscribe(EVENT_INFERENCE_DATA_LOADER_READY, contexts.append)
        bus.subscribe(EVENT_INFERENCE_MODEL_STAGES_READY, contexts.append)

    run = configure_inference(inference_config(), task=ToyInferenceTask(listen))
    started, data_loader, model = contexts

    assert isinstance(started, EventConfigurationStartedContext)
    assert started.dist_context == DistributedContext(device=torch.device("cpu"))
    assert isinstance(data_loader, EventDataLoaderReadyContext)
    assert data_loader.data_loader is run._loop.data_loader
    assert isinstance(model, EventModelStagesReadyContext)
    assert len(model.modules) == 1
    assert model.modules[0] is run.modules[0]


def test_inference_is_ready_once_weights_and_checkpoint_are_loaded(every_step: CheckpointingConfig) -> None:
    """Handlers of READY see the weights of training in eval mode, and the step that inference resumes from."""
    trained = configure_training(training_config(every_step))
    trained.train()
    own = CheckpointingConfig(folder=every_step.folder.parent / "inference", period_steps=1)
    config = inference_config(own, source_checkpoint=every_step.folder)
    configure_inference(config).infer()
    task = ToyInferenceTask()
    run = configure_inference(config, task=task)
    seen: list[tuple[bool, bool, int, int]] = []
    run.event_bus.subscribe(
        EVENT_INFERENCE_READY,
        lambda ctx: seen.append(
            (
                same_tensors(weights_of(run.modules[0]), weights_of(trained.modules[0])),
                run.modules[0].training,
                run.stepper.current_step,
                len(task.predictions),
            )
        ),
    )

    run.infer()

    assert seen == [(True, False, 3, 12)]


@pytest.mark.parametrize("event", STEP_EVENTS, ids=lambda event: event.id)
def test_the_stepper_names_the_step_that_runs(event: Event[EventStepContext]) -> None:
    """At each event of a step, the stepper has the index of the step, from 0, and the total number of steps."""
    seen: list[tuple[int, int]] = []
    run = configure_inference(inference_config())
    run.event_bus.subscribe(event, lambda ctx: seen.append((ctx.stepper.current_step, ctx.stepper.total_steps)))

    run.infer()

    assert seen == [(0, 3), (1, 3), (2, 3)]


def test_step_pre_comes_before_the_samples_are_read() -> None:
    """At STEP_PRE no sample of the step has been read; at STEP_POST all have."""

    class CountingDataset(ToyDataset):
        num_read = 0

        def __getitem__(self, index: int) -> Sample:
            self.num_read += 1
            return super().__getitem__(index)

    dataset = CountingDataset()
    run = configure_inference(inference_config(), dataset=dataset)

    seen = observe(run, lambda: dataset.num_read, EVENT_INFERENCE_STEP_PRE, EVENT_INFERENCE_STEP_POST)

    assert seen == {EVENT_INFERENCE_STEP_PRE.id: [0, 4, 8], EVENT_INFERENCE_STEP_POST.id: [4, 8, 12]}


def test_all_forward_passes_of_a_step_run_between_pre_and_post() -> None:
    """No pass runs before FORWARD_PRE; at FORWARD_POST the outputs of both micro-batches have been processed."""
    diary: list[str] = []

    class DiaryTask(ToyInferenceTask):
        def process_outputs(self, ctx: ProcessOutputsContext) -> None:
            diary.append("process")

    run = configure_inference(inference_config(), task=DiaryTask())
    run.modules[0].register_forward_hook(lambda *_: diary.append("forward"))

    seen = observe(run, diary.copy, EVENT_INFERENCE_FORWARD_PRE, EVENT_INFERENCE_FORWARD_POST)
    step = ["forward", "process"] * 2

    assert seen[EVENT_INFERENCE_FORWARD_PRE.id] == [[], step, step * 2]
    assert seen[EVENT_INFERENCE_FORWARD_POST.id] == [step, step * 2, step * 3]


def test_a_checkpoint_is_written_after_step_post(every_step: CheckpointingConfig) -> None:
    """The checkpoint of a step does not exist yet at its STEP_POST; it exists at the next STEP_PRE."""
    run = configure_inference(inference_config(every_step))

    seen = observe(run, lambda: steps_saved(every_step.folder), EVENT_INFERENCE_STEP_PRE, EVENT_INFERENCE_STEP_POST)

    assert seen == {EVENT_INFERENCE_STEP_PRE.id: [[], [1], [1, 2]], EVENT_INFERENCE_STEP_POST.id: [[], [1], [1, 2]]}


def test_inference_is_finished_once_the_last_checkpoint_is_written(every_step: CheckpointingConfig) -> None:
    """At FINISHED all steps are complete and saved."""
    run = configure_inference(inference_config(every_step))
    seen: list[tuple[int, list[int]]] = []
    run.event_bus.subscribe(
        EVENT_INFERENCE_FINISHED, lambda ctx: seen.append((run.stepper.current_step, steps_saved(every_step.folder)))
    )

    run.infer()

    assert seen == [(3, [1, 2, 3])]


def test_failed_inference_does_not_trigger_finished() -> None:
    """An exception from the task propagates unchanged, and FINISHED is not triggered."""

    class FailingTask(ToyInferenceTask):
        def process_outputs(self, ctx: ProcessOutputsContext) -> None:
            raise StoppedError

    run = configure_inference(inference_config(), task=FailingTask())
    finished: list[object] = []
    run.event_bus.subscribe(EVENT_INFERENCE_FINISHED, finished.append)

    with pytest.raises(StoppedError):
        run.infer()
    assert finished == []
