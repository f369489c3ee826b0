"""Evaluations on every mesh: the results of one process, on all ranks, and a training that they do not change."""

import dataclasses
from collections.abc import Mapping

import pytest
import torch
from layout_job import LAYOUTS, WIDTH, ClassifyTask, Provider, Samples, Stage, configure, full_weights
from ranks import run_on_ranks
from torch import nn

from d9d.core.metric import MaxMetric, Metric, SumMetric, WeightedMeanMetric
from d9d.core.pipeline import StagePosition
from d9d.loop.component.evaluation import Evaluation
from d9d.loop.control import (
    ComputeLossContext,
    ComputeLossResult,
    CreateMetricsContext,
)
from d9d.loop.event.catalogue.train import (
    EVENT_TRAIN_EVALUATION_FINISHED,
    EVENT_TRAIN_EVALUATION_STARTED,
    EVENT_TRAIN_LOSS_READY,
    EVENT_TRAIN_REPORT_READY,
    EventEvaluationFinishedContext,
    EventEvaluationStartedContext,
)

# In the second step of 32 there is one sample: of its micro-batches one is smaller, and one rank has only a repetition.
NUM_SAMPLES = 33
LONG = pytest.mark.slow


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


class RegularizedStage(Stage):
    """A stage whose layers are followed by dropout, and with a batch norm, whose statistics are buffers."""

    def __init__(self, position: StagePosition) -> None:
        super().__init__(position)
        self.norms = nn.ModuleDict({str(position.index): nn.BatchNorm1d(WIDTH)})
        self.dropout = nn.Dropout(0.2)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        features = self.entry(features)
        for layer in self.blocks():
            features = self.dropout(layer(features))
        (norm,) = self.norms.children()
        logits: torch.Tensor = self.exit(norm(features))
        return logits


class RegularizedProvider(Provider):
    stage_kind = RegularizedStage


class CountingTask(ClassifyTask):
    """Has a metric of each kind, which only the ranks that compute losses update."""

    def create_metrics(self, ctx: CreateMetricsContext) -> Mapping[str, Metric]:
        device = ctx.dist_context.device
        self.samples, self.largest = SumMetric(device), MaxMetric(device)
        self.accuracy = WeightedMeanMetric(device)
        return {"samples": self.samples, "largest": self.largest, "accuracy": self.accuracy}

    def compute_loss(self, ctx: ComputeLossContext) -> ComputeLossResult:
        classes = self.own(ctx.batch["class"])
        self.samples.update(len(classes))
        self.largest.update(ctx.outputs.detach())
        self.accuracy.update(ctx.outputs.argmax(-1) == classes, classes >= 0)
        return super().compute_loss(ctx)


@dataclasses.dataclass(frozen=True)
class Seen:
    """What one process saw of a run.

    Attributes:
        events: The id of each event of an evaluation, with its step and name.
        results: The results of each evaluation.
        reports: The numbers of each report.
        losses: The number of times that the event of a loss was triggered.
        weights: The weights and buffers at the end.
        kinds: The type of each parameter after each evaluation.
    """

    events: list[tuple[str, int, str]]
    results: list[dict[str, float]]
    reports: list[dict[str, float]]
    num_losses: int
    weights: dict[str, torch.Tensor]
    kinds: list[list[type]]


def train_in(name: str, num_ranks: int, *, has_evaluations: bool, kind: type[Provider] = Provider) -> Seen:
    """Train three steps, with evaluations before the first and after each step."""
    evaluations = {
        "whole": Evaluation(dataset_provider=Samples(NUM_SAMPLES), period_steps=1, at_start=True),
        "one": Evaluation(dataset_provider=Samples(1), period_steps=2, at_end=False),
    }
    trainer = configure(
        LAYOUTS[name],
        num_ranks,
        CountingTask(),
        provider=kind,
        total_steps=3,
        evaluations=evaluations if has_evaluations else None,
    )
    seen = Seen([], [], [], 0, {}, [])
    losses: list[int] = []
    bus = trainer.event_bus
    bus.subscribe(EVENT_TRAIN_LOSS_READY, lambda ctx: losses.append(1))

    def note_start(ctx: EventEvaluationStartedContext) -> None:
        seen.events.append(("start", ctx.stepper.current_step, ctx.name))

    def note(ctx: EventEvaluationFinishedContext) -> None:
        seen.events.append(("finished", ctx.stepper.current_step, ctx.name))
        seen.results.append(dict(ctx.metrics))
        seen.kinds.append([type(each) for module in trainer.modules for each in module.parameters()])

    bus.subscribe(EVENT_TRAIN_EVALUATION_STARTED, note_start)
    bus.subscribe(EVENT_TRAIN_EVALUATION_FINISHED, note)
    bus.subscribe(EVENT_TRAIN_REPORT_READY, lambda ctx: seen.reports.append(dict(ctx.report.metrics)))
    before = [type(each) for module in trainer.modules for each in module.parameters()]
    trainer.train()
    assert all(module.training for stage in trainer.modules for module in stage.modules())
    assert all(kinds == before for kinds in seen.kinds)
    return dataclasses.replace(seen, num_losses=len(losses), weights=full_weights(trainer))


@pytest.mark.parametrize(
    ("name", "num_ranks"),
    [
        ("fsdp", 2),
        ("1f1b", 2),
        ("zbv", 2),
        pytest.param("tensor", 2, marks=LONG),
        pytest.param("context", 2, marks=LONG),
        pytest.param("replicate", 2, marks=LONG),
        pytest.param("gpipe", 2, marks=LONG),
        pytest.param("interleaved", 2, marks=LONG),
        pytest.param("interleaved-zb", 2, marks=LONG),
        pytest.param("dualpipev", 2, marks=LONG),
        pytest.param("1f1b+fsdp", 4, marks=LONG),
        pytest.param("zbv+fsdp", 4, marks=LONG),
        pytest.param("hsdp", 4, marks=LONG),
    ],
)
def test_results_are_those_of_one_process_on_all_ranks(name: str, num_ranks: int) -> None:
    """The loss and the metrics, with unequal last batches and ranks without samples; events and reports everywhere."""
    alone = train_in("plain", 1, has_evaluations=True)

    on_ranks = run_on_ranks(num_ranks, _train_with, name, num_ranks)

    assert [event for event in alone.events if event[0] == "start"] == [
        ("start", 0, "whole"),
        ("start", 1, "whole"),
        ("start", 2, "whole"),
        ("start", 2, "one"),
        ("start", 3, "whole"),
    ]
    assert alone.results[0]["samples"] == NUM_SAMPLES
    for seen in on_ranks:
        assert seen.events == alone.events
        assert seen.results == on_ranks[0].results  # bit for bit
        assert [[*result] for result in seen.results] == [[*result] for result in alone.results]
        for own, other in zip(seen.results, alone.results, strict=True):
            assert own == pytest.approx(other, rel=1e-3)
        names = [name for _, _, name in alone.events[1::2]]
        assert seen.reports == [
            {f"{name}/{number}": value for number, value in result.items()}
            for name, result in zip(names, seen.results, strict=True)
        ]
    # Three steps of sixteen micro-batches: evaluations trigger no event of a loss.
    assert alone.num_losses == 48
    assert sum(seen.num_losses for seen in on_ranks) == 48 * (2 if name in {"tensor", "context"} else 1)


def _train_with(name: str, num_ranks: int) -> Seen:
    return train_in(name, num_ranks, has_evaluations=True)


def _weights(name: str, num_ranks: int, has_evaluations: bool) -> dict[str, torch.Tensor]:  # noqa: FBT001
    return train_in(name, num_ranks, has_evaluations=has_evaluations, kind=RegularizedProvider).weights


@pytest.mark.parametrize(
    ("name", "num_ranks"),
    [
        ("fsdp", 2),
        ("1f1b", 2),
        pytest.param("zbv", 2, marks=LONG),
        pytest.param("interleaved-zb", 2, marks=LONG),
        pytest.param("zbv+fsdp", 4, marks=LONG),
    ],
)
def test_a_run_with_evaluations_ends_with_the_same_weights(name: str, num_ranks: int) -> None:
    """Bit for bit, with dropout and batch norms, on every rank."""
    with_them = run_on_ranks(num_ranks, _weights, name, num_ranks, True)  # noqa: FBT003
    without = run_on_ranks(num_ranks, _weights, name, num_ranks, False)  # noqa: FBT003

    for own, other in zip(with_them, without, strict=True):
        assert own.keys() == other.keys()
        assert [key for key in own if not torch.equal(own[key], other[key])] == []
