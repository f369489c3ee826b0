"""Evaluations on every mesh: the results of one process, on all ranks, and a training that they do not change."""

import contextlib
import dataclasses
import signal
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from layout_job import LAYOUTS, WIDTH, ClassifyTask, Provider, Samples, Stage, configure, full_weights
from ranks import run_on_ranks
from torch import distributed, nn

from d9d.core.metric import MaxMetric, Metric, SumMetric, WeightedMeanMetric
from d9d.core.pipeline import StagePosition
from d9d.loop.component.evaluation import Evaluation
from d9d.loop.component.shutdown import StopRequest
from d9d.loop.config import CheckpointingConfig, KeepBest
from d9d.loop.control import ComputeLossContext, ComputeLossResult, CreateMetricsContext
from d9d.loop.event.catalogue.train import (
    EVENT_TRAIN_CHECKPOINT_SAVED,
    EVENT_TRAIN_EVALUATION_FINISHED,
    EVENT_TRAIN_EVALUATION_STARTED,
    EVENT_TRAIN_LOSS_READY,
    EVENT_TRAIN_REPORT_READY,
    EVENT_TRAIN_STEP_PRE,
    EventEvaluationFinishedContext,
    EventEvaluationStartedContext,
    EventStepContext,
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


class ScriptedTask(ClassifyTask):
    """Has a given loss in each evaluation, on the ranks that compute losses."""

    def compute_loss(self, ctx: ComputeLossContext) -> ComputeLossResult:
        if ctx.evaluation is None:
            return super().compute_loss(ctx)
        losses = [5.0, 3.0, 4.0, 6.0, 7.0, 8.0]
        return ComputeLossResult(loss=torch.tensor(losses[ctx.stepper.current_step - 1]))


def act_on_one_rank(
    name: str, folder: Path, act: Callable[[EventStepContext], None], period_steps: int | None
) -> list[tuple[str, int]]:
    """Train six steps, in the second of which rank 1 acts, and return the steps of evaluations and checkpoints."""
    seen: list[tuple[str, int]] = []
    trainer = configure(
        LAYOUTS[name],
        2,
        ScriptedTask(),
        total_steps=6,
        checkpointing=CheckpointingConfig(
            folder=folder, period_steps=None, num_to_keep=1, keep_best=KeepBest(metric="one/loss")
        ),
        evaluations={
            "one": Evaluation(dataset_provider=Samples(1), period_steps=period_steps, at_end=False),
            "two": Evaluation(dataset_provider=Samples(1), at_end=False),
        },
    )

    def react(ctx: EventStepContext) -> None:
        if ctx.stepper.current_step == 1 and distributed.get_rank() == 1:
            act(ctx)

    bus = trainer.event_bus
    bus.subscribe(EVENT_TRAIN_STEP_PRE, react)
    bus.subscribe(EVENT_TRAIN_EVALUATION_FINISHED, lambda ctx: seen.append((ctx.name, ctx.stepper.current_step)))
    bus.subscribe(EVENT_TRAIN_CHECKPOINT_SAVED, lambda ctx: seen.append(("saved", ctx.step)))
    try:
        trainer.train()
    except StopRequest:
        seen.append(("stopped", trainer.stepper.current_step))
    else:
        seen.append((trainer.load_best().name, trainer.stepper.current_step))
        seen.append((str(trainer.evaluate("two")), trainer.stepper.current_step))
    return seen


BY_HAND = [("{'two': {'loss': 8.0}}", 6)]


def ask(ctx: EventStepContext) -> None:
    """Ask for an evaluation."""
    ctx.control.evaluate("one")


def send_signal(ctx: EventStepContext) -> None:
    """Ask for an evaluation, and send a stop signal to this process."""
    ctx.control.evaluate("two")
    signal.raise_signal(signal.SIGTERM)


@pytest.mark.parametrize("name", ["fsdp", pytest.param("1f1b", marks=LONG)])
def test_a_request_of_one_rank_is_an_evaluation_on_all_and_the_best_is_saved(name: str, tmp_path: Path) -> None:
    """The request of the second step takes effect after the third; its result is the best one so far."""
    expected = [("one", 3), ("saved", 3), ("saved", 6), ("step-3", 6), *BY_HAND]

    assert run_on_ranks(2, act_on_one_rank, name, tmp_path, ask, None) == [expected] * 2


@pytest.mark.parametrize("name", ["fsdp", pytest.param("1f1b", marks=LONG)])
def test_evaluations_that_a_signal_postpones_run_when_the_run_is_resumed(name: str, tmp_path: Path) -> None:
    """On all ranks, before the first step; the best checkpoint is the one that an undisturbed run would keep."""
    stopped = run_on_ranks(2, act_on_one_rank, name, tmp_path, send_signal, 3)
    resumed = run_on_ranks(2, act_on_one_rank, name, tmp_path, ask, 3)

    assert stopped == [[("saved", 3), ("stopped", 3)]] * 2
    assert resumed == [[("one", 3), ("two", 3), ("one", 6), ("saved", 6), ("step-3", 6), *BY_HAND]] * 2


def collectives_in(name: str, has_evaluations: bool, folder: Path) -> list[list[str]]:  # noqa: FBT001
    """Return the collective operations of the main thread in each step, with its boundary.

    The boundary after the third step has an asynchronous save, for which a handler has asked, and the evaluation.
    """
    evaluations = {"one": Evaluation(dataset_provider=Samples(1), period_steps=3, at_end=False)}
    trainer = configure(
        LAYOUTS[name],
        2,
        CountingTask(),
        total_steps=5,
        checkpointing=CheckpointingConfig(folder=folder, period_steps=None, asynchronous=True),
        evaluations=evaluations if has_evaluations else None,
    )
    steps: list[list[str]] = []

    def counting(operation: str) -> Any:
        original = getattr(distributed, operation)

        def count(*arguments: Any, **keywords: Any) -> Any:
            if steps and threading.current_thread() is threading.main_thread():
                steps[-1].append(operation)
            return original(*arguments, **keywords)

        return count

    def begin(ctx: EventStepContext) -> None:
        steps.append([])
        if ctx.stepper.current_step == 1:
            ctx.control.save()

    trainer.event_bus.subscribe(EVENT_TRAIN_STEP_PRE, begin)
    with contextlib.ExitStack() as patches:
        for operation in ("all_reduce", "broadcast_object_list", "all_gather_object", "barrier", "broadcast"):
            patches.enter_context(mock.patch.object(distributed, operation, counting(operation)))
        trainer.train()
    return steps


@pytest.mark.parametrize("name", ["fsdp", "1f1b"])
def test_evaluations_add_no_collective_operation_to_steps_without_one(name: str, tmp_path: Path) -> None:
    """At the boundary of an evaluation there is one for each kind of reduction, and one that makes ranks agree."""
    with_them, without = (
        run_on_ranks(2, collectives_in, name, has_evaluations, tmp_path / f"{has_evaluations}")[0]
        for has_evaluations in (True, False)
    )

    own = sorted(with_them.pop(2))
    for operation in sorted(without.pop(2)):
        own.remove(operation)
    assert own.count("all_reduce") == 2
    assert own.count("broadcast_object_list") == 1 + (name == "1f1b")  # the shapes of the activations of one kind
    assert with_them == without
