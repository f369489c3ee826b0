"""A loop reports its numbers every few steps, to people and to programs."""

import json
import math
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from streams import recorded_streams
from tensorboard.backend.event_processing.event_accumulator import (  # type: ignore[import-untyped] # it has no types
    EventAccumulator,
)
from torch.utils._python_dispatch import TorchDispatchMode

from d9d.core import device
from d9d.core.dist_context import DistributedContext
from d9d.core.metric import Metric, SumMetric, WeightedMeanMetric
from d9d.core.protocol import LRSchedulerProtocol, OptimizerProtocol
from d9d.loop.component import reporting
from d9d.loop.config import ConfigurationError, ReportingConfig
from d9d.loop.control import (
    ComputeLossContext,
    ComputeLossResult,
    CreateMetricsContext,
    InitializeLRSchedulerContext,
    InitializeOptimizerContext,
    ProcessOutputsContext,
)
from d9d.loop.event.catalogue.train import (
    EVENT_TRAIN_REPORT_READY,
    EVENT_TRAIN_STEP_PRE,
    EventReportReadyContext,
    EventStepContext,
)

from .toy_job import (
    Listen,
    StoppedError,
    ToyInferenceTask,
    ToyModelProvider,
    ToyTask,
    configure_inference,
    configure_training,
    inference_config,
    listen_to_nothing,
    training_config,
)

Line = dict[str, Any]


def reporting_to(path: Path | None, period_steps: int = 1, **settings: Any) -> ReportingConfig:
    return ReportingConfig(progress_bar=False, period_steps=period_steps, json_lines=path, **settings)


def lines_of(path: Path) -> list[Line]:
    """Read all complete lines."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.endswith("}")]


class CountingTask(ToyTask):
    """Counts samples, and keeps the loss of each step."""

    def __init__(self) -> None:
        super().__init__()
        self.losses: list[float] = []

    def create_metrics(self, ctx: CreateMetricsContext) -> Mapping[str, Metric]:
        self.samples = SumMetric(ctx.dist_context.device)
        self.positive = WeightedMeanMetric(ctx.dist_context.device)
        return {"samples": self.samples, "positive": self.positive}

    def compute_loss(self, ctx: ComputeLossContext) -> ComputeLossResult:
        result = super().compute_loss(ctx)
        self.losses.append(result.loss.item())
        self.samples.update(float(len(ctx.outputs)))
        return result


class GivenMetrics(ToyTask):
    """Creates the metrics of a test."""

    def __init__(self, metrics: Any) -> None:
        super().__init__()
        self._metrics = metrics

    def create_metrics(self, ctx: CreateMetricsContext) -> Any:
        return self._metrics


def sgd(ctx: InitializeOptimizerContext) -> OptimizerProtocol:
    return torch.optim.SGD(ctx.parameters(), lr=0.5)


def halving(ctx: InitializeLRSchedulerContext) -> LRSchedulerProtocol:
    assert isinstance(ctx.optimizer, torch.optim.Optimizer)
    return torch.optim.lr_scheduler.ExponentialLR(ctx.optimizer, 0.5)


def test_each_report_is_a_line_with_all_numbers(tmp_path: Path) -> None:
    """Some belong to its last step, and some to all steps since the previous report."""
    path, task = tmp_path / "new" / "metrics.jsonl", CountingTask()
    config = training_config(total_steps=5, reporting=reporting_to(path, 2))
    configure_training(config, task=task, optimizer_provider=sgd, lr_scheduler_provider=halving).train()
    lines = lines_of(path)

    assert [line["step"] for line in lines] == [2, 4, 5]
    assert [line["samples"] for line in lines] == [8.0, 8.0, 4.0]
    assert [line["loss"] for line in lines] == [pytest.approx(sum(task.losses[i : i + 2]) / 2) for i in (2, 6, 8)]
    # The rates of these steps, not those that the scheduler has set for the next ones.
    assert [line["learning_rate"] for line in lines] == [0.25, 0.0625, 0.03125]
    assert all(line["gradient_norm"] > 0 and line["samples_per_second"] > line["steps_per_second"] for line in lines)
    assert {line["loop"] for line in lines} == {"train"}
    assert len({line["run"] for line in lines}) == 1
    assert "positive" not in lines[0]  # nothing was counted


def test_each_group_of_parameters_has_its_learning_rate(tmp_path: Path) -> None:
    """The name has the index of the group."""

    def two_groups(ctx: InitializeOptimizerContext) -> OptimizerProtocol:
        first, *others = ctx.parameters()
        return torch.optim.SGD([{"params": [first], "lr": 0.5}, {"params": others, "lr": torch.tensor(0.25)}], lr=1.0)

    config = training_config(total_steps=1, reporting=reporting_to(tmp_path / "metrics.jsonl"))
    configure_training(config, optimizer_provider=two_groups).train()
    (line,) = lines_of(tmp_path / "metrics.jsonl")

    assert (line["learning_rate/0"], line["learning_rate/1"]) == (0.5, 0.25)


def test_inference_reports_its_metrics(tmp_path: Path) -> None:
    """It has no loss, and its last step has the remaining samples."""

    class CountingInference(ToyInferenceTask):
        def create_metrics(self, ctx: CreateMetricsContext) -> Mapping[str, Metric]:
            self.samples = SumMetric(ctx.dist_context.device)
            return {"samples": self.samples}

        def process_outputs(self, ctx: ProcessOutputsContext) -> None:
            self.samples.update(float(len(ctx.outputs)))

    path = tmp_path / "metrics.jsonl"
    configure_inference(
        inference_config(global_batch_size=5, micro_batch_size=None, reporting=reporting_to(path)),
        task=CountingInference(),
    ).infer()
    lines = lines_of(path)

    assert [(line["loop"], line["step"], line["samples"]) for line in lines] == [
        ("infer", 1, 5.0),
        ("infer", 2, 5.0),
        ("infer", 3, 2.0),
    ]
    assert lines[2]["samples_per_second"] == pytest.approx(2 * lines[2]["steps_per_second"])
    assert "loss" not in lines[0]


def test_runs_share_a_file_and_a_line_cut_off_by_a_kill_spoils_no_other(tmp_path: Path) -> None:
    """The rest of a killed run's last line stays on a line by itself; each line names its run."""
    path = tmp_path / "metrics.jsonl"
    config = training_config(total_steps=2, reporting=reporting_to(path))
    configure_training(config).train()
    with path.open("a", encoding="utf-8") as file:
        file.write('{"run": "killed", "st')
    configure_training(config).train()
    configure_inference(inference_config(reporting=reporting_to(path))).infer()
    lines = lines_of(path)

    assert [(line["loop"], line["step"]) for line in lines] == [
        *(("train", 1), ("train", 2), ("train", 1), ("train", 2)),
        *(("infer", 1), ("infer", 2), ("infer", 3)),
    ]
    assert len({line["run"] for line in lines}) == 3
    assert path.read_text(encoding="utf-8").count("\n") == 8


def test_a_run_that_resumes_appends_to_the_file(tmp_path: Path, every_step: Any) -> None:
    """Its reports are due in the same steps, and the steps that it runs again are reported again."""
    path, task = tmp_path / "metrics.jsonl", CountingTask()
    config = training_config(every_step, total_steps=6, reporting=reporting_to(path, 2))

    def stop(ctx: EventStepContext) -> None:
        if ctx.stepper.current_step == 3:
            raise StoppedError

    trainer = configure_training(config, task=task)
    trainer.event_bus.subscribe(EVENT_TRAIN_STEP_PRE, stop)
    with pytest.raises(StoppedError):
        trainer.train()
    configure_training(config, task=CountingTask()).train()

    assert [(line["step"], line["samples"]) for line in lines_of(path)] == [(2, 8.0), (4, 4.0), (6, 8.0)]


def test_an_error_carries_the_numbers_that_no_report_has_shown_yet(tmp_path: Path) -> None:
    """The numbers of the last complete step may show why, and no report is due in the middle of a step."""

    def fail(ctx: EventStepContext) -> None:
        if ctx.stepper.current_step == 2:
            raise StoppedError

    task = CountingTask()
    trainer = configure_training(training_config(reporting=reporting_to(tmp_path / "metrics.jsonl")), task=task)
    trainer.event_bus.subscribe(EVENT_TRAIN_STEP_PRE, fail)
    with pytest.raises(StoppedError) as raised:
        trainer.train()
    (note,) = [note for note in raised.value.__notes__ if "no report" in note]

    assert [line["step"] for line in lines_of(tmp_path / "metrics.jsonl")] == [1]
    assert note.startswith(
        f"the numbers of step 2 of 3, which no report had shown yet: loss {sum(task.losses[2:4]) / 2:.4f}, "
    )
    assert "samples 4" in note


def test_the_loop_writes_a_report_before_handlers_of_users_get_it(tmp_path: Path) -> None:
    """So a handler that raises because of a number does not keep it out of the files."""

    def refuse(ctx: EventReportReadyContext) -> None:
        raise StoppedError

    path = tmp_path / "metrics.jsonl"
    task = ToyTask(lambda bus: bus.subscribe(EVENT_TRAIN_REPORT_READY, refuse))
    with pytest.raises(StoppedError):
        configure_training(training_config(reporting=reporting_to(path)), task=task).train()

    assert [line["step"] for line in lines_of(path)] == [1]


def test_a_report_that_nobody_hears_on_a_rank_is_not_computed_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """Other ranks than the main one have no sinks."""
    monkeypatch.setattr(DistributedContext, "is_main_process", False)
    computed = []

    class Watched(SumMetric):
        def compute(self, reduced: torch.Tensor, /) -> float:
            computed.append(reduced.item())
            return 0.0

    def train(listen: Listen) -> int:
        metrics = {"watched": Watched(torch.device("cpu"))}
        task = GivenMetrics(metrics)
        trainer = configure_training(training_config(reporting=reporting_to(None)), task=task)
        listen(trainer.event_bus)
        trainer.train()
        return len(computed)

    assert train(listen_to_nothing) == 0
    assert train(lambda bus: bus.subscribe(EVENT_TRAIN_REPORT_READY, lambda ctx: None)) == 3


def test_numbers_that_json_does_not_have_are_strings(tmp_path: Path) -> None:
    """`float` reads them, and every line is standard JSON."""

    class DivergedTask(ToyTask):
        def create_metrics(self, ctx: CreateMetricsContext) -> Mapping[str, Metric]:
            self.metrics = [SumMetric(ctx.dist_context.device) for _ in range(2)]
            return {"up": self.metrics[0], "down": self.metrics[1]}

        def compute_loss(self, ctx: ComputeLossContext) -> ComputeLossResult:
            self.metrics[0].update(math.inf)
            self.metrics[1].update(-math.inf)
            return ComputeLossResult(loss=ctx.outputs.mean() * math.nan)

    path = tmp_path / "metrics.jsonl"
    configure_training(training_config(total_steps=1, reporting=reporting_to(path)), task=DivergedTask()).train()
    (line,) = lines_of(path)

    assert (line["loss"], line["up"], line["down"]) == ("NaN", "Infinity", "-Infinity")
    assert math.isnan(float(line["loss"]))
    assert float(line["down"]) == -math.inf


def test_no_file_is_opened_before_the_first_report(tmp_path: Path) -> None:
    """A run that is only configured, or fails before that, leaves no file."""
    reporting = reporting_to(tmp_path / "a" / "metrics.jsonl", tensorboard=tmp_path / "b")
    present: list[bool] = []
    trainer = configure_training(
        training_config(total_steps=6, reporting=reporting.model_copy(update={"period_steps": 3}))
    )
    trainer.event_bus.subscribe(EVENT_TRAIN_STEP_PRE, lambda ctx: present.append(any(tmp_path.iterdir())))
    trainer.train()

    assert present == [False, False, False, False, True, True]


def test_without_reports_no_file_is_opened(tmp_path: Path) -> None:
    """A file that could not be written is not refused either: nothing is written to it."""
    reporting = ReportingConfig(progress_bar=False, period_steps=None, json_lines=tmp_path, tensorboard=tmp_path / "b")
    configure_training(training_config(reporting=reporting)).train()

    assert list(tmp_path.iterdir()) == []


class CountedOperators(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the operators that run."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.num_calls = 0

    def __torch_dispatch__(self, func: Any, types: object, args: Any = (), kwargs: Any = None) -> Any:
        self.num_calls += 1
        return func(*args, **(kwargs or {}))


def test_a_step_in_which_nothing_is_due_computes_nothing(tmp_path: Path) -> None:
    """It only compares two numbers."""
    config = training_config(total_steps=6, reporting=reporting_to(tmp_path / "metrics.jsonl", 3))
    trainer = configure_training(config, task=CountingTask())
    num_calls: list[int] = []

    with trainer._loop.reporter as reporter:
        while not trainer.stepper.is_finished:
            with CountedOperators() as counted:
                numbers = torch.tensor(1.0), torch.tensor(2.0)
                if reporter.is_due:
                    reporter.record(*numbers, trainer.optimizer)
                trainer.stepper.advance()
                reporter.take(has_arrived=True)
            num_calls.append(counted.num_calls - 2)  # which make the tensors of this test

    assert [num > 0 for num in num_calls] == [False, False, True, True, False, True]
    assert num_calls[:2] == [0, 0]


def test_a_run_continues_while_a_report_cannot_be_written(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """It warns once, and writes again as soon as the file can be written."""
    path = tmp_path / "metrics.jsonl"
    trainer = configure_training(training_config(total_steps=6, reporting=reporting_to(path)))

    def disturb(ctx: EventStepContext) -> None:
        if ctx.stepper.current_step == 1:
            path.mkdir()
        if ctx.stepper.current_step == 4:
            path.rmdir()

    trainer.event_bus.subscribe(EVENT_TRAIN_STEP_PRE, disturb)
    trainer.train()
    warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]

    assert [line["step"] for line in lines_of(path)] == [4, 5, 6]
    (warning,) = warnings
    assert warning == (
        f"reporting.json_lines={path}: IsADirectoryError: [Errno 21] Is a directory: '{path}', after 2 of 6 steps. The "
        "run continues: reports are missing there until it can be written again. This is logged only once."
    )


def test_tensorboard_reads_the_reports(tmp_path: Path) -> None:
    """Each loop has a folder, each number is a scalar, and a step that was run twice is shown once."""
    for total_steps in (3, 4):  # the second run stands for one that resumes
        trainer = configure_training(
            training_config(total_steps=total_steps, reporting=reporting_to(None, tensorboard=tmp_path)),
            task=CountingTask(),
        )
        if total_steps == 4:
            trainer.stepper.load_state_dict({"current_step": 1})
            # TensorBoard orders files by the second in their names, and within a second by a number, as text.
            second = int(time.time())
            while int(time.time()) == second:
                time.sleep(0.01)
        trainer.train()
    events = EventAccumulator(str(tmp_path / "train"))
    events.Reload()

    assert {"loss", "gradient_norm", "learning_rate", "samples", "steps_per_second"} <= set(events.Tags()["scalars"])
    assert [(event.step, event.value) for event in events.Scalars("samples")] == [(step, 4.0) for step in (1, 2, 3, 4)]


def test_tensorboard_is_an_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where it is not installed, the error has the command to install it, and the model is not built."""
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    provider = ToyModelProvider()

    with pytest.raises(ConfigurationError, match=r"not installed: run `pip install 'd9d-hooks\[tensorboard\]'`"):
        configure_training(training_config(reporting=reporting_to(None, tensorboard=tmp_path)), model_provider=provider)
    assert provider.num_built == 0


@pytest.mark.parametrize("field", ["json_lines", "tensorboard"])
def test_a_place_that_cannot_be_written_is_refused(tmp_path: Path, field: str) -> None:
    """Here, a file is in the place of a folder."""
    (tmp_path / "file").touch()
    settings: dict[str, Any] = {"json_lines": None, field: tmp_path / "file" / "x"}
    reporting = ReportingConfig(progress_bar=False, **settings)

    with pytest.raises(
        ConfigurationError, match=rf"reporting.{field}=.*file/x is not .*: set it to another .*, or to None"
    ):
        configure_training(training_config(reporting=reporting))


def test_a_folder_is_refused_as_file_for_lines(tmp_path: Path) -> None:
    """This happens before the model is built."""
    with pytest.raises(
        ConfigurationError,
        match=r"reporting.json_lines=.* is not a regular file: set it to the path of a file, or to None",
    ):
        configure_training(training_config(reporting=reporting_to(tmp_path)))


class Unknown(SumMetric):
    reduction: Any = "median"


class Square(SumMetric):
    def share(self) -> torch.Tensor:
        return super().share().reshape(1, 1)


METRIC = SumMetric(torch.device("cpu"))


@pytest.mark.parametrize(
    ("metrics", "message"),
    [
        (
            {"loss": METRIC},
            "names a metric 'loss', but the loop reports 'loss' itself: choose a name other than gradient_norm, ",
        ),
        ({"learning_rate/x": METRIC}, "names a metric 'learning_rate/x', but the loop reports 'learning_rate' itself"),
        ({"": METRIC}, "names a metric '': use a string that is not empty"),
        ({3: METRIC}, "names a metric 3: use a string"),
        (
            {"a/b": METRIC, "a": METRIC},
            "names metrics 'a' and 'a/b', but 'a' may itself report a number named 'a/b': rename one",
        ),
        ({"a": 1.0}, "returned a float as 'a': return a Metric, such as a SumMetric"),
        ([METRIC], "returned a list: return a mapping from names to metrics"),
        ({"a": Unknown(torch.device("cpu"))}, "returned 'a' with reduction='median': use one of sum, max, min"),
        ({"a": Square(torch.device("cpu"))}, r"returned 'a', whose share has the shape \[1, 1\]: flatten it"),
    ],
)
def test_metrics_that_cannot_be_reported_are_refused(metrics: Any, message: str) -> None:
    """The message names the method that returned them, and the model is not built."""
    provider = ToyModelProvider()

    with pytest.raises(ConfigurationError, match=f"GivenMetrics.create_metrics {message}"):
        configure_training(training_config(), task=GivenMetrics(metrics), model_provider=provider)
    assert provider.num_built == 0


def test_a_share_that_changes_its_size_is_refused() -> None:
    """Other ranks would reduce another number of elements."""

    class Growing(SumMetric):
        size = 2

        def share(self) -> torch.Tensor:
            return torch.zeros(self.size)

    metric = Growing(torch.device("cpu"))
    trainer = configure_training(training_config(reporting=reporting_to(None)), task=GivenMetrics({"a": metric}))
    metric.size = 3
    with pytest.raises(ValueError, match=r"the share of metric 'a' has the shape \[3\], and had \[2\] at first"):
        trainer.train()


def test_all_reports_use_one_stream_and_one_block_of_pinned_memory(tmp_path: Path) -> None:
    """So they never share one of torch's few streams with the transfer of batches; their numbers are unchanged."""

    def train(path: Path) -> list[Line]:
        task = CountingTask()
        config = training_config(total_steps=6, reporting=reporting_to(path))
        configure_training(config, task=task, optimizer_provider=sgd).train()
        return [
            {name: line.get(name) for name in ("step", "loss", "samples", "gradient_norm")} for line in lines_of(path)
        ]

    expected = train(tmp_path / "plain.jsonl")
    with recorded_streams(reporting, device) as recorded:
        found = train(tmp_path / "streams.jsonl")

    assert found == expected
    assert len(recorded.streams) == 1
    assert len(recorded.pinned_bytes) == 1
    (stream,) = recorded.streams
    report = [f"{stream}.{call}" for call in ("wait_stream(computing)", "enter", "record_event", "exit")]
    assert recorded.calls == [*report, "event.synchronize"] * 6


def test_a_report_with_more_numbers_than_before_takes_more_memory() -> None:
    """Such as one of an optimizer with many learning rates on the device."""
    cpu = torch.device("cpu")
    with recorded_streams(reporting, device) as recorded:
        copy = reporting.HostCopy(cpu, torch.float32, 2)
        for size in (2, 5, 3):
            copy.start([torch.arange(float(size)), torch.zeros(1)], [])
            assert [part.tolist() for part in copy.read()] == [list(range(size)), [0.0]]

    assert recorded.pinned_bytes == [8, 12, 24]
