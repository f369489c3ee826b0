"""Evaluations between the steps of training, in one process: when they run, what they report, and what they leave."""

import copy
import dataclasses
import datetime as dt
import gc
import json
import pickle
import random
import signal
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from declared import declared_ids, record, violation
from safetensors.torch import load_file
from torch import nn
from torch.utils.data import IterableDataset

from d9d.core.loop_control import LoopControl
from d9d.core.metric import MaxMetric, Metric, SumMetric, WeightedMeanMetric
from d9d.core.report import Report
from d9d.loop.component.checkpoint.storage import Checkpoint
from d9d.loop.component.evaluation import Evaluation
from d9d.loop.component.shutdown import StopRequest
from d9d.loop.config import CheckpointingConfig, ConfigurationError, ReportingConfig
from d9d.loop.control import (
    ComputeLossContext,
    ComputeLossResult,
    CreateMetricsContext,
    InitializeDatasetContext,
    InitializeDatasetResult,
    InitializeModelStageContext,
    InitializeModelStageResult,
    ModelProvider,
    ProcessOutputsContext,
)
from d9d.loop.event import EventBus, subscribe, subscribe_annotated
from d9d.loop.event.catalogue import train
from d9d.loop.run import Trainer, TrainingConfigurator

from .toy_job import (
    NUM_FEATURES,
    StoppedError,
    ToyDataset,
    ToyInferenceTask,
    ToyModelProvider,
    ToyTask,
    configure_training,
    same_tensors,
    steps_saved,
    training_config,
    weights_of,
)

CONFIGURATION = [event_id for event_id in declared_ids("train") if event_id.startswith("train.configuration.")]
SEVEN = Evaluation(dataset_provider=ToyDataset(7))


def listen(bus: EventBus) -> tuple[list[tuple[int, str, Mapping[str, float]]], list[Report]]:
    """Record step, name and results of each evaluation, and all reports."""
    results: list[tuple[int, str, Mapping[str, float]]] = []
    reports: list[Report] = []
    bus.subscribe(
        train.EVENT_TRAIN_EVALUATION_FINISHED,
        lambda ctx: results.append((ctx.stepper.current_step, ctx.name, ctx.metrics)),
    )
    bus.subscribe(train.EVENT_TRAIN_REPORT_READY, lambda ctx: reports.append(ctx.report))
    return results, reports


def trained(evaluations: Mapping[str, Evaluation], **settings: Any) -> list[tuple[int, str]]:
    """Train ten steps of two samples, and return step and name of each evaluation."""
    arguments = {name: settings.pop(name) for name in ("task", "dataset") if name in settings}
    config = training_config(**{"total_steps": 10, "global_batch_size": 2, **settings})
    trainer = configure_training(config, evaluations=evaluations, **arguments)
    results, _ = listen(trainer.event_bus)
    trainer.train()
    return [(step, name) for step, name, _ in results]


def at(**settings: Any) -> Evaluation:
    """Return an evaluation of two samples that is due only when the settings say so."""
    return Evaluation(**{"dataset_provider": ToyDataset(2), "at_end": False, **settings})


@pytest.mark.parametrize(
    ("evaluation", "steps"),
    [
        (at(), []),
        (at(at_end=True), [10]),
        (at(at_start=True), [0]),
        (at(period_steps=4), [4, 8]),
        (at(period_steps=5, at_end=True), [5, 10]),
        (at(period_epochs=1), [3, 6, 9]),
        (at(period_epochs=2, at_start=True, at_end=True), [0, 6, 10]),
        (at(period_steps=3, period_epochs=1), [3, 6, 9]),
    ],
)
def test_an_evaluation_runs_when_it_is_due(evaluation: Evaluation, steps: list[int]) -> None:
    """Ten steps of two of six samples: the three passes end in steps 3, 6 and 9. Each runs once at a boundary."""
    assert trained({"own": evaluation}, dataset=ToyDataset(6)) == [(step, "own") for step in steps]


def test_evaluations_run_in_the_order_of_the_mapping() -> None:
    """Those that are due after the same step."""
    evaluations = {"zebra": at(period_steps=5), "ant": at(period_steps=10), "bee": at(period_steps=5)}

    assert trained(evaluations) == [(5, "zebra"), (5, "bee"), (10, "zebra"), (10, "ant"), (10, "bee")]


def asking_in(step: int, act: Callable[[LoopControl], object]) -> Callable[[EventBus], None]:
    """Subscribe a handler that acts in a step."""

    def react(ctx: train.EventStepContext) -> None:
        if ctx.stepper.current_step == step:
            act(ctx.control)

    def listen(bus: EventBus) -> None:
        bus.subscribe(train.EVENT_TRAIN_STEP_PRE, react)

    return listen


def test_handlers_ask_for_evaluations() -> None:
    """A request of step 5 takes effect after step 6, without names for all; what is due as well runs once."""
    some = ToyTask(asking_in(4, lambda control: control.evaluate("b")))
    every = ToyTask(asking_in(4, lambda control: control.evaluate()))
    evaluations = {"a": at(), "b": at(period_steps=6)}

    assert trained(evaluations, task=some) == [(6, "b")]
    assert trained(evaluations, task=every) == [(6, "a"), (6, "b")]


def test_a_run_that_a_handler_stops_has_its_last_evaluations() -> None:
    """And then succeeds."""
    task = ToyTask(asking_in(2, lambda control: control.stop("enough")))

    assert trained({"a": at(at_end=True), "b": at()}, task=task) == [(4, "a")]


def test_events_come_in_the_order_of_the_catalogue(tmp_path: Path) -> None:
    """Start, results, report, and then the checkpoint; before the first step the evaluations alone."""
    config = training_config(CheckpointingConfig(folder=tmp_path, period_steps=1), total_steps=1)
    trainer = configure_training(config, evaluations={"a": at(at_start=True, at_end=True), "b": at(at_end=True)})
    trace: list[str] = []
    record(trainer.event_bus, train, trace, is_configured=True)

    trainer.train()

    evaluation = ["train.evaluation.start", "train.evaluation.finished", "train.report.ready"]
    first_step = trace.index("train.step.pre")
    assert trace[:first_step] == ["train.ready", *evaluation]
    assert trace[trace.index("train.step.post") + 1 :] == [
        *evaluation,
        *evaluation,
        "train.checkpoint.start",
        "train.checkpoint.saved",
        "train.finished",
        "train.closed",
    ]
    assert trace.count("train.loss.ready") == 2
    assert violation("train", [*CONFIGURATION, *trace], complete=True) is None


class Weighted(ToyTask):
    """Weights each micro-batch by its number of samples, and has metrics of three kinds; notes its contexts."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.seen: list[str | None] = []
        self.is_recording: list[tuple[bool, bool]] = []

    def create_metrics(self, ctx: CreateMetricsContext) -> Mapping[str, Metric]:
        device = ctx.dist_context.device
        self.samples, self.largest = SumMetric(device), MaxMetric(device)
        self.mean = WeightedMeanMetric(device)
        return {"samples": self.samples, "largest": self.largest, "mean": self.mean}

    def compute_loss(self, ctx: ComputeLossContext) -> ComputeLossResult:
        self.seen.append(ctx.evaluation)
        self.is_recording.append((torch.is_grad_enabled(), ctx.outputs.requires_grad))
        target = ctx.batch["target"]
        self.samples.update(len(target))
        self.largest.update(target)
        self.mean.update(target)
        return ComputeLossResult(loss=nn.functional.mse_loss(ctx.outputs, target), loss_weight=len(target))


def test_the_result_is_the_weighted_mean_of_the_loss_and_the_metrics_of_the_task() -> None:
    """Over all seven samples alike, though the last micro-batch has one of them: computed at once for comparison."""
    task, data = Weighted(), ToyDataset(7)
    trainer = configure_training(training_config(), task=task, evaluations={"validation": SEVEN})
    results, reports = listen(trainer.event_bus)

    trainer.train()

    (model,) = trainer.modules
    with torch.no_grad():
        loss = nn.functional.mse_loss(model.eval()(data.features), data.targets).item()
    expected = {"loss": loss, "samples": 7, "largest": data.targets.max().item(), "mean": data.targets.mean().item()}
    ((step, name, metrics),) = results
    assert (step, name) == (3, "validation")
    assert metrics == pytest.approx(expected, rel=1e-6)
    assert [report.metrics for report in reports] == [{f"validation/{each}": metrics[each] for each in metrics}]
    assert reports[0].step == 3
    assert task.seen == [None] * 6 + ["validation"] * 4
    assert task.is_recording[-4:] == [(False, False)] * 4


def test_a_handler_that_changes_its_numbers_does_not_change_those_of_the_loop(tmp_path: Path) -> None:
    """The checkpoint has the results as they were, and JSON takes the numbers as they are."""
    checkpointing = CheckpointingConfig(folder=tmp_path, period_steps=None)
    trainer = configure_training(training_config(checkpointing), evaluations={"validation": SEVEN})
    found: list[float] = []

    def change(ctx: train.EventEvaluationFinishedContext) -> None:
        assert isinstance(ctx.metrics, dict)
        found.append(json.loads(json.dumps(ctx.metrics))["loss"])
        ctx.metrics["loss"] = -1.0

    trainer.event_bus.subscribe(train.EVENT_TRAIN_EVALUATION_FINISHED, change)
    trainer.train()

    assert Checkpoint(tmp_path / "step-3").manifest()["evaluations"] == {"validation": {"loss": found[-1]}}


@pytest.mark.parametrize(
    "duplicate",
    [copy.copy, copy.deepcopy, dataclasses.replace, lambda report: pickle.loads(pickle.dumps(report))],  # noqa: S301 -- pickled here
    ids=["copy", "deepcopy", "replace", "pickle"],
)
def test_a_report_can_be_copied_and_keeps_its_own_numbers(duplicate: Callable[[Report], Report]) -> None:
    """A change of the mapping that it was made of does not change it."""
    numbers = {"loss": 1.0}
    report = Report(step=1, time=dt.datetime.now(dt.UTC), metrics=numbers)
    numbers["loss"] = 2.0

    assert duplicate(report) == report
    assert duplicate(report).metrics == {"loss": 1.0}


def test_results_are_lines_of_their_own_in_the_file_of_reports(tmp_path: Path) -> None:
    """With the names under which reports have them."""
    reporting = ReportingConfig(progress_bar=False, json_lines=tmp_path / "metrics.jsonl")
    trainer = configure_training(training_config(reporting=reporting), evaluations={"validation": SEVEN})
    results, _ = listen(trainer.event_bus)

    trainer.train()

    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    own = [line for line in lines if "validation/loss" in line]
    assert [(line["step"], line["validation/loss"]) for line in own] == [(3, results[0][2]["loss"])]
    assert "loss" not in own[0]


def test_max_steps_bounds_the_samples() -> None:
    """Two global batches of four samples."""
    evaluation = dataclasses.replace(SEVEN, dataset_provider=ToyDataset(100), max_steps=2)
    trainer = configure_training(training_config(), task=Weighted(), evaluations={"own": evaluation})

    assert trainer.evaluate()["own"]["samples"] == 8


def reports_of(evaluations: Mapping[str, Evaluation]) -> list[Mapping[str, float]]:
    """Train eight steps, and return the metrics in the reports of the training, every three steps."""
    config = training_config(
        total_steps=8, reporting=ReportingConfig(progress_bar=False, period_steps=3, json_lines=None)
    )
    trainer = configure_training(config, task=Weighted(), evaluations=evaluations)
    _, reports = listen(trainer.event_bus)
    trainer.train()
    kept = ("samples", "largest", "mean", "loss")
    return [{name: report.metrics[name] for name in kept} for report in reports if "steps_per_second" in report.metrics]


def test_reports_of_the_training_are_as_without_evaluations() -> None:
    """What metrics had counted is set aside, twice between two reports, and comes back by their reductions."""
    evaluations = {"a": at(period_steps=1, dataset_provider=ToyDataset(100)), "b": at(period_steps=1)}

    with_them, without = reports_of(evaluations), reports_of({})

    assert [each["samples"] for each in without] == [12, 12, 8]
    for own, other in zip(with_them, without, strict=True):
        assert own == pytest.approx(other, rel=1e-12)


class DelegatingTask(ToyTask):
    """Computes the loss of another task, which counts it."""

    def __init__(self, other: ToyTask) -> None:
        super().__init__()
        self._other = other

    def compute_loss(self, ctx: ComputeLossContext) -> ComputeLossResult:
        return self._other.compute_loss(ctx)


def test_a_task_of_an_evaluation_may_delegate_to_the_training_task() -> None:
    """What that counts for it is in no report of the training."""
    task = Weighted()
    trainer = configure_training(
        training_config(reporting=ReportingConfig(progress_bar=False, period_steps=3, json_lines=None)),
        task=task,
        evaluations={"a": at(period_steps=1, task=DelegatingTask(task))},
    )
    _, reports = listen(trainer.event_bus)
    trainer.train()

    assert [report.metrics["samples"] for report in reports if "samples" in report.metrics] == [12]


class PassCounter:
    """A subscriber that counts the forward passes of the model."""

    def create_metrics(self, ctx: CreateMetricsContext) -> dict[str, Metric]:
        self._passes = SumMetric(ctx.dist_context.device)
        return {"passes/model": self._passes}

    @subscribe(train.EVENT_TRAIN_MODEL_STAGES_READY)
    def count(self, ctx: train.EventModelStagesReadyContext) -> None:
        ctx.modules[0].register_forward_hook(lambda *_: self._passes.update(torch.tensor(1.0)))


def counting(evaluations: Mapping[str, Evaluation]) -> TrainingConfigurator:
    """Return a training of three steps, each of two forward passes, which a subscriber counts."""
    return TrainingConfigurator(
        config=training_config(reporting=ReportingConfig(progress_bar=False, period_steps=3, json_lines=None)),
        task=ToyTask(),
        model_provider=ToyModelProvider(),
        dataset_provider=ToyDataset(),
        evaluations=evaluations,
        subscribers=[PassCounter()],
    )


def test_what_a_subscriber_counts_in_an_evaluation_is_in_no_report() -> None:
    """Its hooks in the model run there too, whatever the task."""
    trainer = counting({"a": at(period_steps=1, task=ToyInferenceTask())}).configure()
    _, reports = listen(trainer.event_bus)
    trainer.train()

    assert [report.metrics["passes/model"] for report in reports] == [6]


def test_an_evaluation_cannot_have_the_name_of_a_metric_of_a_subscriber() -> None:
    """Its results would be taken for those of the metric."""
    with pytest.raises(ConfigurationError, match=r"named 'passes', and .* or a subscriber has a metric named 'passes/"):
        counting({"passes": SEVEN}).configure()


class NormalizedModelProvider(ModelProvider):
    """A model with a batch norm, whose statistics are buffers, and dropout; the second norm is frozen by its user."""

    def initialize_model_stage(self, ctx: InitializeModelStageContext) -> InitializeModelStageResult:
        return InitializeModelStageResult(
            model=nn.Sequential(
                nn.Linear(NUM_FEATURES, 8), nn.BatchNorm1d(8), nn.Dropout(0.3), nn.BatchNorm1d(8), nn.Linear(8, 1)
            )
        )


class NoisyTask(ToyTask):
    """Draws from the generators of torch and Python, and freezes a norm."""

    def compute_loss(self, ctx: ComputeLossContext) -> ComputeLossResult:
        weight = 1 + random.gauss(0.0, 1.0) + torch.rand(()).item()
        return ComputeLossResult(loss=nn.functional.mse_loss(ctx.outputs, ctx.batch["target"]), loss_weight=weight)


class NoisyData(ToyDataset):
    """Draws from the generator of torch whenever a sample is read, and once when it is made."""

    def __init__(self, num_samples: int = 12) -> None:
        super().__init__(num_samples)
        torch.rand(3)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        sample = super().__getitem__(index)
        return {**sample, "features": sample["features"] + 0.1 * torch.rand(NUM_FEATURES)}


def weights_after(evaluations: Mapping[str, Evaluation], **settings: Any) -> dict[str, torch.Tensor]:
    """Train six steps of a model with dropout and batch norms, of which one is frozen, and return the weights."""
    trainer = configure_training(
        training_config(total_steps=6, **settings),
        task=NoisyTask(),
        model_provider=NormalizedModelProvider(),
        dataset=NoisyData(),
        evaluations=evaluations,
    )
    (model,) = trainer.modules
    assert isinstance(model, nn.Sequential)
    frozen = model[3]

    def freeze(_: object) -> None:
        frozen.eval()

    trainer.event_bus.subscribe(train.EVENT_TRAIN_READY, freeze)
    trainer.train()
    assert [module.training for module in model] == [True, True, True, False, True]
    return weights_of(model)


@pytest.mark.parametrize("num_workers", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_a_run_with_evaluations_ends_with_the_same_weights_and_buffers(num_workers: int) -> None:
    """Bit for bit, with dropout, batch norm, noise in the data and in the loss, and a module that its user froze."""
    loading = {"data_loading": {"num_workers": num_workers}}

    def provide(_: InitializeDatasetContext) -> InitializeDatasetResult:
        return InitializeDatasetResult(dataset=NoisyData(7))  # draws a random number

    evaluations = {"a": Evaluation(dataset_provider=provide, period_steps=2, at_start=True)}

    assert same_tensors(weights_after(evaluations, **loading), weights_after({}, **loading))


def test_what_an_evaluation_draws_is_the_same_each_time() -> None:
    """Two evaluations of the same weights have the same result, whatever was drawn in between."""
    trainer = configure_training(
        training_config(), task=NoisyTask(), evaluations={"a": at(dataset_provider=NoisyData())}
    )
    first = trainer.evaluate("a")
    torch.rand(5)

    assert trainer.evaluate("a") == first


class FailingTask(ToyTask):
    """Fails in an evaluation, after it has drawn random numbers."""

    def compute_loss(self, ctx: ComputeLossContext) -> ComputeLossResult:
        if ctx.evaluation is not None:
            torch.rand(1)
            random.gauss(0.0, 1.0)
            raise StoppedError
        return super().compute_loss(ctx)


def test_a_failed_evaluation_fails_like_a_step(tmp_path: Path) -> None:
    """Modes and random numbers are as before, the run has failed, and nothing is saved at this boundary."""
    config = training_config(CheckpointingConfig(folder=tmp_path, period_steps=1))
    trainer = configure_training(config, task=FailingTask(), evaluations={"a": at(period_steps=2)})
    trace: list[str] = []
    states: list[Any] = []
    record(trainer.event_bus, train, trace, is_configured=True)
    trainer.event_bus.subscribe(
        train.EVENT_TRAIN_EVALUATION_STARTED, lambda ctx: states.append((torch.get_rng_state(), random.getstate()))
    )

    with pytest.raises(StoppedError):
        trainer.train()

    ((torch_state, python_state),) = states
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert random.getstate() == python_state
    assert all(module.training for module in trainer.modules[0].modules())
    assert torch.is_grad_enabled()
    assert trace[-3:] == ["train.evaluation.start", "train.failed", "train.closed"]
    assert steps_saved(tmp_path) == [1]


class OwnTask(ToyInferenceTask):
    """Counts what it gets."""

    def create_metrics(self, ctx: CreateMetricsContext) -> Mapping[str, Metric]:
        self.count = SumMetric(ctx.dist_context.device)
        return {"count": self.count}

    def process_outputs(self, ctx: ProcessOutputsContext) -> None:
        super().process_outputs(ctx)
        assert list(ctx.samples) == ctx.batch["index"].tolist()
        self.count.update(len(ctx.outputs))


def test_an_inference_task_gets_the_outputs() -> None:
    """Its metrics are the results; each sample comes once and in order."""
    task = OwnTask()
    trainer = configure_training(training_config(), evaluations={"own": dataclasses.replace(SEVEN, task=task)})

    assert trainer.evaluate() == {"own": {"count": 7}}
    assert task.indices == list(range(7))


def test_another_training_task_computes_its_own_loss_and_metrics() -> None:
    """One task may serve several evaluations; its handlers are registered once, and its state is saved."""
    heard: list[int] = []

    def subscribe(bus: EventBus) -> None:
        bus.subscribe(train.EVENT_TRAIN_READY, lambda ctx: heard.append(1))

    task = Weighted(subscribe)
    evaluations = {name: dataclasses.replace(SEVEN, task=task) for name in ("a", "b")}
    trainer = configure_training(training_config(), evaluations=evaluations)
    results, _ = listen(trainer.event_bus)

    trainer.train()

    assert [sorted(metrics) for _, _, metrics in results] == [["largest", "loss", "mean", "samples"]] * 2
    assert [metrics["samples"] for _, _, metrics in results] == [7, 7]
    assert heard == [1]


def test_trainer_evaluate_runs_between_steps_and_returns_the_results() -> None:
    """The same numbers as those of an evaluation that is due there, with its events."""
    trainer = configure_training(training_config(), evaluations={"a": at(period_steps=1), "b": SEVEN})
    results, _ = listen(trainer.event_bus)

    for ctx in trainer.steps():
        if ctx.stepper.current_step == 2:
            own = trainer.evaluate("a")
            assert own == {"a": results[-2][2]}
    assert [(step, name) for step, name, _ in results] == [(1, "a"), (2, "a"), (2, "a"), (3, "a"), (3, "b")]
    assert trainer.evaluate() == {"a": results[3][2], "b": results[4][2]}


def test_trainer_evaluate_before_the_training_has_the_weights_to_start_from(tmp_path: Path) -> None:
    """Those of `source_checkpoint`, as an evaluation at the start of the run has."""
    other = configure_training(training_config(total_steps=5, seed=3))
    other.train()
    other.export(tmp_path / "weights")
    config = training_config(source_checkpoint=tmp_path / "weights")
    trainer = configure_training(config, evaluations={"a": dataclasses.replace(SEVEN, at_start=True)})
    results, _ = listen(trainer.event_bus)

    before = trainer.evaluate()
    assert same_tensors(weights_of(trainer.modules[0]), weights_of(other.modules[0]))
    trainer.train()

    assert results[0][2] == before["a"]
    assert results[1][2] != before["a"]


class Tracker:
    """Opens a file when a run begins, and closes it when the run is over."""

    def __init__(self) -> None:
        self.reports: list[Report] | None = None
        self.closed: list[Report] = []

    @subscribe(train.EVENT_TRAIN_READY)
    def open(self, ctx: train.EventTrainReadyContext) -> None:
        self.reports = []

    @subscribe(train.EVENT_TRAIN_REPORT_READY)
    def write(self, ctx: train.EventReportReadyContext) -> None:
        assert self.reports is not None
        self.reports.append(ctx.report)

    @subscribe(train.EVENT_TRAIN_CLOSED)
    def close(self, ctx: train.EventTrainClosedContext) -> None:
        assert self.reports is not None
        self.closed = self.reports
        self.reports = None


class MetaModelProvider(ModelProvider):
    """A layer on the meta device: what is loaded from a checkpoint is not initialised."""

    def initialize_model_stage(self, ctx: InitializeModelStageContext) -> InitializeModelStageResult:
        with torch.device("meta"):
            return InitializeModelStageResult(model=nn.Linear(NUM_FEATURES, 1))


def test_before_a_run_that_resumes_trainer_evaluate_and_export_have_the_weights_of_its_checkpoint(
    tmp_path: Path,
) -> None:
    """Those of `source_checkpoint` are not read any more; the training continues as it would without them."""
    config = training_config(CheckpointingConfig(folder=tmp_path / "checkpoints", period_steps=1), total_steps=4)

    def configured() -> Trainer:
        return configure_training(config, model_provider=MetaModelProvider(), evaluations={"own": SEVEN})

    undisturbed = configure_training(
        config.model_copy(update={"checkpointing": None}), model_provider=MetaModelProvider()
    )
    undisturbed.train()
    first = configured()
    for ctx in first.steps():
        if ctx.stepper.current_step == 2:
            results, weights = first.evaluate(), weights_of(first.modules[0])
            break
    exporting, evaluating = configured(), configured()
    exporting.export(tmp_path / "exported")

    assert same_tensors(load_file(tmp_path / "exported" / "model.safetensors"), weights)
    assert evaluating.evaluate() == results
    evaluating.train()
    assert same_tensors(weights_of(evaluating.modules[0]), weights_of(undisturbed.modules[0]))


def test_trainer_evaluate_calls_no_tracker_that_is_not_open() -> None:
    """Before and after the training it returns its results, and triggers nothing."""
    tracker = Tracker()
    trainer = configure_training(
        training_config(),
        task=ToyTask(lambda bus: subscribe_annotated(bus, tracker)),
        evaluations={"a": SEVEN},
    )

    trainer.evaluate()
    trainer.train()
    after = trainer.evaluate()

    assert [report.metrics for report in tracker.closed] == [{"a/loss": after["a"]["loss"]}]


def test_handlers_that_prepare_an_evaluation_are_not_left_out_without_a_word(caplog: pytest.LogCaptureFixture) -> None:
    """They may change what is evaluated, such as by loading averages of the weights."""
    trainer = configure_training(training_config(), evaluations={"a": SEVEN})
    heard: list[object] = []
    trainer.event_bus.subscribe(train.EVENT_TRAIN_EVALUATION_STARTED, heard.append)
    trainer.event_bus.subscribe(train.EVENT_TRAIN_EVALUATION_FINISHED, heard.append)
    trainer.train()
    assert len(heard) == 2
    assert caplog.messages == []

    trainer.evaluate()

    assert len(heard) == 2
    (message,) = caplog.messages
    assert message.startswith("handlers are called during the run only, so what these do at event 'train.evaluation.s")
    assert message.endswith("does not happen now: list.append")


def test_trainer_evaluate_refuses_what_it_cannot_do() -> None:
    """Within a step, for an unknown name, and without evaluations."""
    with pytest.raises(ValueError, match="this run has no evaluations: give TrainingConfigurator"):
        configure_training(training_config()).evaluate()
    trainer = configure_training(training_config(), evaluations={"a": SEVEN})
    with pytest.raises(ValueError, match="no evaluation named 'b': this run has 'a'"):
        trainer.evaluate("b")

    def evaluate(_: object) -> None:
        trainer.evaluate()

    trainer.event_bus.subscribe(train.EVENT_TRAIN_STEP_POST, evaluate)
    with pytest.raises(RuntimeError, match=r"within the loop, where the results come later: call control.evaluate"):
        trainer.train()


def saved(folder: Path, step: int) -> dict[str, Any]:
    """Return what a checkpoint says about evaluations."""
    manifest = Checkpoint.of_step(folder, step).manifest()
    return {name: manifest[name] for name in ("evaluations", "pending_evaluations")}


def test_results_are_in_the_checkpoint_of_their_step_alone(tmp_path: Path) -> None:
    """As numbers, or as words that JSON can hold."""
    config = training_config(CheckpointingConfig(folder=tmp_path, period_steps=1))
    trainer = configure_training(config, evaluations={"a": at(period_steps=2)})
    results, _ = listen(trainer.event_bus)

    trainer.train()

    assert saved(tmp_path, 1) == {"evaluations": {}, "pending_evaluations": []}
    assert saved(tmp_path, 2) == {"evaluations": {"a": results[0][2]}, "pending_evaluations": []}
    assert saved(tmp_path, 3) == {"evaluations": {}, "pending_evaluations": []}


def signalling_in(step: int) -> ToyTask:
    """Return a task that asks for evaluation `b` in a step, in which a signal arrives as well."""

    def act(control: LoopControl) -> None:
        control.evaluate("b")
        signal.raise_signal(signal.SIGTERM)

    return ToyTask(asking_in(step, act))


def test_a_signal_comes_before_evaluations_which_the_resumed_run_begins_with(tmp_path: Path) -> None:
    """The resumed run sees the results of an undisturbed one, at the same step, and the checkpoint gets them."""
    evaluations = {"a": at(period_steps=2), "b": at(), "c": at(at_end=True, period_steps=3)}
    undisturbed = configure_training(
        training_config(total_steps=5), task=ToyTask(asking_in(0, lambda c: c.evaluate("b"))), evaluations=evaluations
    )
    expected, _ = listen(undisturbed.event_bus)
    undisturbed.train()
    config = training_config(CheckpointingConfig(folder=tmp_path, num_to_keep=9), total_steps=5)
    first = configure_training(config, task=signalling_in(0), evaluations=evaluations)
    seen, _ = listen(first.event_bus)

    with pytest.raises(StopRequest):
        first.train()

    assert seen == []
    assert saved(tmp_path, 2) == {"evaluations": {}, "pending_evaluations": ["a", "b"]}
    again = configure_training(config, evaluations=evaluations)
    trace: list[str] = []
    record(again.event_bus, train, trace, is_configured=True)
    results, _ = listen(again.event_bus)
    again.train()
    assert results == expected
    assert [(step, name) for step, name, _ in results] == [(2, "a"), (2, "b"), (3, "c"), (4, "a"), (5, "c")]
    assert trace[trace.index("train.ready") + 1] == "train.evaluation.start"
    assert violation("train", [*CONFIGURATION, *trace], complete=True) is None
    assert saved(tmp_path, 2) == {"evaluations": {"a": results[0][2], "b": results[1][2]}, "pending_evaluations": []}
    assert list(Checkpoint.of_step(tmp_path, 2).verify()) == []


def test_a_signal_in_the_last_step_leaves_the_last_evaluations_to_the_next_run(tmp_path: Path) -> None:
    """The run is saved at once and asks to be run again; a third run has nothing to do."""
    config = training_config(CheckpointingConfig(folder=tmp_path), total_steps=2)
    evaluations = {"b": at(at_end=True)}
    with pytest.raises(StopRequest):
        configure_training(config, task=signalling_in(1), evaluations=evaluations).train()
    assert saved(tmp_path, 2)["pending_evaluations"] == ["b"]

    for expected in ([(2, "b")], []):
        again = configure_training(config, evaluations=evaluations)
        results, _ = listen(again.event_bus)
        trace: list[str] = []
        record(again.event_bus, train, trace, is_configured=True)
        again.train()
        assert [(step, name) for step, name, _ in results] == expected
        assert trace[-2:] == ["train.finished", "train.closed"]


def test_an_evaluation_that_is_no_longer_there_is_not_run_later(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """There is a warning, and a signal in the last step finds nothing left to do."""
    config = training_config(CheckpointingConfig(folder=tmp_path), total_steps=5)
    with pytest.raises(StopRequest):
        configure_training(config, task=signalling_in(0), evaluations={"a": at(), "b": at()}).train()

    with caplog.at_level("WARNING"):
        again = configure_training(config, task=ToyTask(asking_in(4, lambda _: signal.raise_signal(signal.SIGTERM))))
        again.train()

    assert "the evaluations that were left to do when the run stopped are no longer there: 'b'" in caplog.messages
    assert again.stepper.is_finished


def test_a_fresh_run_alone_evaluates_at_its_start(tmp_path: Path) -> None:
    """A run that resumes does not."""
    config = training_config(CheckpointingConfig(folder=tmp_path, period_steps=1), total_steps=4)
    for_start = {"a": at(at_start=True)}
    first = configure_training(config, evaluations=for_start)
    results, _ = listen(first.event_bus)
    for _ in first.steps():
        break
    assert [step for step, _, _ in results] == [0]
    again = configure_training(config, evaluations=for_start)
    results, _ = listen(again.event_bus)

    again.train()

    assert results == []


def test_a_checkpoint_of_the_format_before_is_read(tmp_path: Path) -> None:
    """It has no results of evaluations."""
    config = training_config(CheckpointingConfig(folder=tmp_path, period_steps=1), total_steps=4)
    for _ in configure_training(config).steps():
        break
    path = tmp_path / "step-1" / "checkpoint.json"
    manifest = json.loads(path.read_text())
    del manifest["evaluations"], manifest["pending_evaluations"], manifest["stop_reason"]
    path.write_text(json.dumps({**manifest, "format": 2}))
    trainer = configure_training(config, evaluations={"a": SEVEN})

    assert len([*trainer.steps()]) == 3


def test_evaluations_leave_signal_handlers_and_the_garbage_collector_alone() -> None:
    """They are in an evaluation what they are in a step."""
    seen: list[Any] = []

    def note(_: object) -> None:
        seen.append((signal.getsignal(signal.SIGTERM), gc.isenabled(), gc.get_freeze_count() > 0))

    trainer = configure_training(training_config(), evaluations={"a": at(period_steps=1)})
    bus = trainer.event_bus
    bus.subscribe(train.EVENT_TRAIN_STEP_PRE, note)
    bus.subscribe(train.EVENT_TRAIN_STEP_POST, note)
    bus.subscribe(train.EVENT_TRAIN_EVALUATION_FINISHED, note)
    trainer.train()

    assert seen == [seen[0]] * 9


class Compiled(ModelProvider):
    """A model that is compiled; notes the shapes of the inputs of each graph.

    Args:
        graphs: The shapes.
    """

    def __init__(self, graphs: list[list[str]]) -> None:
        self._graphs = graphs

    def initialize_model_stage(self, ctx: InitializeModelStageContext) -> InitializeModelStageResult:
        def backend(graph: torch.fx.GraphModule, inputs: list[Any]) -> Callable[..., Any]:
            self._graphs.append([str(tuple(each.shape)) for each in inputs if isinstance(each, torch.Tensor)])
            return graph.forward

        model = nn.Sequential(nn.Linear(NUM_FEATURES, 4), nn.Dropout(0.2), nn.Linear(4, 1))
        compiled = torch.compile(model, backend=backend)
        assert isinstance(compiled, nn.Module)
        return InitializeModelStageResult(model=compiled)


def graphs_of(evaluations: Mapping[str, Evaluation]) -> list[list[str]]:
    """Train with a compiled model, and return the shapes for which it was compiled."""
    torch._dynamo.reset()
    graphs: list[list[str]] = []
    config = training_config(global_batch_size=8, micro_batch_size=4)
    configure_training(config, model_provider=Compiled(graphs), evaluations=evaluations).train()
    return graphs


def test_a_smaller_last_batch_compiles_nothing_for_other_shapes() -> None:
    """An evaluation of 4 + 4 + 3 samples before the first step adds one graph, of the micro-batches of training."""
    evaluations = {"a": Evaluation(dataset_provider=ToyDataset(11), at_start=True, period_steps=1)}

    (alone,) = graphs_of({})
    with_evaluations = graphs_of(evaluations)

    assert with_evaluations == [alone, alone]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"period_steps": 0}, "period_steps is 0: use a whole number from 1, or None for never"),
        ({"period_epochs": -1}, "period_epochs is -1: use a whole number from 1, or None for never"),
        ({"max_steps": 1.5}, "max_steps is 1.5: use a whole number from 1, or None for all data"),
        ({"period_steps": True}, "period_steps is True: use a whole number from 1, or None for never"),
    ],
)
def test_numbers_of_an_evaluation_are_checked(settings: dict[str, Any], message: str) -> None:
    """When it is made."""
    with pytest.raises(ConfigurationError, match=message):
        Evaluation(dataset_provider=ToyDataset(), **settings)


class Stream(IterableDataset[Any]):
    """Samples without a length."""

    def __iter__(self) -> Any:
        return iter(ToyDataset())


@pytest.mark.parametrize(
    ("evaluations", "error", "message"),
    [
        ({"a/b": SEVEN}, ConfigurationError, "an evaluation named 'a/b', and its results .* has no slash"),
        ({"loss": SEVEN}, ConfigurationError, "an evaluation named 'loss'.*none of gradient_norm, "),
        ({"samples": SEVEN}, ConfigurationError, "named 'samples', and .* has a metric named 'samples'"),
        ({"a": ToyDataset()}, TypeError, r"evaluations\['a'\] is a ToyDataset: pass Evaluation\(dataset_provider="),
        ({"a": at(dataset_provider=ToyDataset(0))}, ConfigurationError, r"from evaluations\['a'\], .* is empty"),
        ({"a": at(dataset_provider=Stream())}, ConfigurationError, r"from evaluations\['a'\], .* is iterable"),
    ],
)
def test_evaluations_that_cannot_run_are_refused(evaluations: Any, error: type[Exception], message: str) -> None:
    """At configuration, before the model is built."""
    provider = ToyModelProvider()

    with pytest.raises(error, match=message):
        configure_training(training_config(), task=Weighted(), model_provider=provider, evaluations=evaluations)

    assert provider.num_built == 0


def test_what_is_no_data_and_no_task_is_refused() -> None:
    """With the words of the configurators."""
    with pytest.raises(TypeError, match=r"dataset_provider is an int: pass a torch.utils.data.Dataset"):
        Evaluation(dataset_provider=5)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="task is a int: pass a TrainTask or an InferenceTask"):
        Evaluation(dataset_provider=ToyDataset(), task=5)  # type: ignore[arg-type]


def test_epochs_need_data_with_a_length() -> None:
    """An iterable dataset has none."""
    with pytest.raises(ConfigurationError, match=r"evaluations\['a'\] has period_epochs=1, and the training data is "):
        configure_training(training_config(), dataset=Stream(), evaluations={"a": at(period_epochs=1)})
