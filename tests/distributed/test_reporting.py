"""Several ranks report the same numbers as one process that has all of their samples."""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from ranks import run_on_ranks
from torch import distributed

from d9d.core.dist_context import DeviceMeshParameters, DistributedContext
from d9d.core.metric import MaxMetric, Metric, Reduction, SumMetric, WeightedMeanMetric
from d9d.core.stepper import Stepper
from d9d.loop.component.reporting import build_reporter, create_subscriber_metrics
from d9d.loop.config import ConfigurationError, InferenceConfig, ReportingConfig
from d9d.loop.control import BaseTask, CreateMetricsContext

NUM_STEPS, NUM_SAMPLES = 7, 4
SPEEDS = {"steps_per_second", "samples_per_second"}
SHARD = DeviceMeshParameters(data_parallel_shard=2)


class Smallest:
    """A metric that users could write: the smallest value."""

    reduction: Reduction = "min"

    def __init__(self) -> None:
        self._smallest = torch.tensor(torch.inf)

    def update(self, values: torch.Tensor) -> None:
        self._smallest = torch.minimum(self._smallest, values.min())

    def share(self) -> torch.Tensor:
        return self._smallest.reshape(1)

    def compute(self, reduced: torch.Tensor, /) -> float:
        return reduced.item()

    def reset(self) -> None:
        self._smallest = torch.tensor(torch.inf)


class Signs:
    """A metric that users could write, with two numbers: how many values are negative, and how many are not."""

    reduction: Reduction = "sum"

    def __init__(self) -> None:
        self._counts = torch.zeros(2, dtype=torch.int64)

    def update(self, values: torch.Tensor) -> None:
        self._counts += torch.stack([(values < 0).sum(), (values >= 0).sum()])

    def share(self) -> torch.Tensor:
        return self._counts

    def compute(self, reduced: torch.Tensor, /) -> Mapping[str, float]:
        return dict(zip(["negative", "other"], reduced.tolist(), strict=True))

    def reset(self) -> None:
        self._counts.zero_()


class Measuring(BaseTask):
    """Measures random values with all kinds of metrics."""

    def create_metrics(self, ctx: CreateMetricsContext) -> Mapping[str, Metric]:
        device = ctx.dist_context.device
        self.total, self.mean, self.largest = SumMetric(device), WeightedMeanMetric(device), MaxMetric(device)
        self.smallest, self.signs = Smallest(), Signs()
        return {
            "total": self.total,
            "smallest": self.smallest,
            "mean": self.mean,
            "largest": self.largest,
            "signs": self.signs,
        }

    def measure(self, values: torch.Tensor) -> None:
        self.total.update(values)
        self.mean.update(values, values.abs())
        for metric in (self.largest, self.smallest, self.signs):
            metric.update(values)


def measure(
    folder: Path,
    mesh: DeviceMeshParameters,
    first_step: int = 0,
    work_in_step: Callable[[int, int], object] = lambda rank, step: None,
) -> None:
    """Run a loop in which each rank measures its part of the values of a step.

    Args:
        folder: Each rank writes its reports to a file there.
        mesh: How the ranks divide the samples; in a pipeline, the last one measures all.
        first_step: The first step, which is not 0 in a resumed run.
        work_in_step: What else a rank does in each step; gets its rank and the step.
    """
    context, task, stepper = DistributedContext.start("cpu", mesh), Measuring(), Stepper(NUM_STEPS, first_step)
    config = InferenceConfig(
        global_batch_size=NUM_SAMPLES, mesh=mesh, reporting=ReportingConfig(period_steps=3, json_lines=None)
    )
    reports = []
    with build_reporter(config, task=task, stepper=stepper, dist_context=context) as reporter:
        while not stepper.is_finished:
            generator = torch.Generator().manual_seed(stepper.current_step)
            values = torch.randn(NUM_SAMPLES, generator=generator, dtype=torch.float64)
            if context.pipeline_rank == mesh.pipeline_parallel - 1:
                task.measure(values.chunk(mesh.data_parallel_size)[context.data_parallel_rank])
            work_in_step(context.rank, stepper.current_step)
            if reporter.is_due:
                reporter.record()
            stepper.advance()
            reports.append(reporter.take(has_arrived=True))
        reports.append(reporter.take_last())
    records = [{"step": report.step, **report.metrics} for report in reports if report is not None]
    (folder / f"{context.rank}.json").write_text(json.dumps(records), encoding="utf-8")


def report_of(folder: Path, num_ranks: int, *arguments: Any) -> list[dict[str, Any]]:
    """Return the reports of a loop without its speed, after comparing those of all ranks."""
    folder.mkdir()
    run_on_ranks(num_ranks, measure, folder, *arguments)
    first, *others = [
        [
            {name: number for name, number in report.items() if name not in SPEEDS}
            for report in json.loads((folder / f"{rank}.json").read_text(encoding="utf-8"))
        ]
        for rank in range(num_ranks)
    ]
    assert all(other == first for other in others)
    return first


def require_same(left: list[dict[str, Any]], right: list[dict[str, Any]]) -> None:
    """Compare reports; sums in another order differ in the last bits."""
    assert [line.keys() for line in left] == [line.keys() for line in right]
    for one, other in zip(left, right, strict=True):
        assert one == pytest.approx(other, rel=1e-12)


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """The reports of one process that has all samples."""
    return report_of(tmp_path_factory.mktemp("alone") / "reports", 1, DeviceMeshParameters())


def test_one_process_reports_all_that_it_measures(alone: list[dict[str, Any]]) -> None:
    """That includes metrics of users, with one number or several."""
    values = torch.stack(
        [torch.randn(4, generator=torch.Generator().manual_seed(step), dtype=torch.float64) for step in range(3)]
    )

    assert [line["step"] for line in alone] == [3, 6, 7]
    assert alone[0] == pytest.approx(
        {
            "step": 3,
            "total": values.sum().item(),
            "mean": (values * values.abs()).sum().item() / values.abs().sum().item(),
            "signs/negative": (values < 0).sum().item(),
            "signs/other": (values >= 0).sum().item(),
            "largest": values.max().item(),
            "smallest": values.float().min().item(),
        }
    )


@pytest.mark.parametrize(
    "mesh",
    [
        pytest.param(SHARD, id="samples"),
        pytest.param(DeviceMeshParameters(pipeline_parallel=2), id="stages-of-which-the-last-measures"),
        pytest.param(DeviceMeshParameters(tensor_parallel=2), id="matrices-so-that-both-measure-all"),
        pytest.param(
            DeviceMeshParameters(data_parallel_replicate=2, tensor_parallel=2),
            id="samples-and-matrices",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_several_processes_report_as_one(
    mesh: DeviceMeshParameters, alone: list[dict[str, Any]], tmp_path: Path
) -> None:
    """Whatever they divide, each value counts once, and all ranks have the same report."""
    require_same(report_of(tmp_path / "reports", mesh.world_size, mesh), alone)


def lag_and_talk(rank: int, step: int) -> None:
    """Be late in every other step, and reduce something with the others as training does."""
    time.sleep(0.02 * ((rank + step) % 2))
    number = torch.tensor([float(step)])
    distributed.all_reduce(number)
    assert number.item() == 2.0 * step


def test_a_pending_report_does_not_mix_with_other_collective_operations(
    alone: list[dict[str, Any]], tmp_path: Path
) -> None:
    """Ranks that take turns to be late start their collective operations in the same order."""
    require_same(report_of(tmp_path / "reports", 2, SHARD, 0, lag_and_talk), alone)


def test_a_resumed_run_reports_in_the_same_steps(alone: list[dict[str, Any]], tmp_path: Path) -> None:
    """A run that starts after the first report reports what the whole run would have reported."""
    require_same(report_of(tmp_path / "reports", 2, SHARD, 3), alone[1:])


class Unequal(BaseTask):
    """Has a metric on the main process only."""

    def create_metrics(self, ctx: CreateMetricsContext) -> Mapping[str, Metric]:
        return {"a": SumMetric(ctx.dist_context.device)} if ctx.dist_context.is_main_process else {}


class ReservedOnOneRank(BaseTask):
    """Gives a metric a reserved name on one rank."""

    def create_metrics(self, ctx: CreateMetricsContext) -> Mapping[str, Metric]:
        return {"a" if ctx.dist_context.is_main_process else "loss": SumMetric(ctx.dist_context.device)}


def refusal(task: BaseTask, json_lines: Path | None) -> str:
    """Return why this process refuses."""
    config = InferenceConfig(global_batch_size=2, mesh=SHARD, reporting=ReportingConfig(json_lines=json_lines))
    context = DistributedContext.start("cpu", SHARD)
    with pytest.raises(ConfigurationError) as raised:
        build_reporter(config, task=task, stepper=Stepper(1), dist_context=context)
    return str(raised.value)


def test_ranks_with_different_metrics_are_refused_on_all_ranks() -> None:
    """They would wait for each other."""
    first, second = run_on_ranks(2, refusal, Unequal(), None)

    assert first == second
    assert first == (
        "Unequal.create_metrics returned nothing on rank 1, and Unequal.create_metrics returned a (sum of 1) on rank "
        "0: create the same metrics in the same order on all ranks, also on those that have nothing to count"
    )


class Samples:
    """A subscriber with a metric."""

    def create_metrics(self, ctx: CreateMetricsContext) -> Mapping[str, Metric]:
        return {"samples": SumMetric(ctx.dist_context.device)}


class Tokens:
    """Another one."""

    def create_metrics(self, ctx: CreateMetricsContext) -> Mapping[str, Metric]:
        return {"tokens": SumMetric(ctx.dist_context.device)}


def refusal_of_subscribers(of_each_rank: Sequence[Sequence[object]]) -> str:
    """Return why this process refuses its subscribers."""
    context = DistributedContext.start("cpu", SHARD)
    with pytest.raises(ConfigurationError) as raised:
        create_subscriber_metrics(of_each_rank[context.rank], context, ())
    return str(raised.value)


@pytest.mark.parametrize(
    ("of_each_rank", "message"),
    [
        (
            [[], [object(), Samples()]],
            "Samples.create_metrics returned samples (sum of 1) on rank 1, and no other subscriber has create_metrics",
        ),
        (
            [[Samples(), Tokens()], [Samples()]],
            "no other subscriber has create_metrics on rank 1, and Tokens.create_metrics returned tokens (sum of 1)",
        ),
    ],
    ids=["not-on-rank-0", "not-on-rank-1"],
)
def test_a_subscriber_with_metrics_on_one_rank_is_refused_on_all(
    of_each_rank: Sequence[Sequence[object]], message: str
) -> None:
    """The other rank would wait for it."""
    first, second = run_on_ranks(2, refusal_of_subscribers, of_each_rank)

    assert first == second
    assert first.startswith(message)


def test_an_error_on_one_rank_is_raised_on_all() -> None:
    """The ranks whose metrics are right raise it too."""
    first, second = run_on_ranks(2, refusal, ReservedOnOneRank(), None)

    assert first == second
    assert "names a metric 'loss', but the loop reports 'loss' itself" in first


def test_a_file_that_the_main_process_cannot_write_is_refused_on_all_ranks(tmp_path: Path) -> None:
    """The other ranks write no file."""
    first, second = run_on_ranks(2, refusal, BaseTask(), tmp_path)

    assert first == second
    assert first == f"reporting.json_lines={tmp_path} is not a regular file: set it to the path of a file, or to None"
