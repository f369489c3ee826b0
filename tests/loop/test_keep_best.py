"""Checkpoints that are kept because of a result, and those of epochs and of every N steps; loading the best one."""

import json
import math
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from d9d.__main__ import main
from d9d.core.metric import Metric, WeightedMeanMetric
from d9d.loop.component.checkpoint.files import CheckpointError
from d9d.loop.component.checkpoint.storage import Checkpoint
from d9d.loop.component.evaluation import Evaluation
from d9d.loop.component.shutdown import StopRequest
from d9d.loop.config import CheckpointingConfig, ConfigurationError, KeepBest, ResumeConfig
from d9d.loop.control import ComputeLossContext, ComputeLossResult, CreateMetricsContext
from d9d.loop.event.catalogue import train
from d9d.loop.run import Trainer

from .test_evaluation import Stream
from .toy_job import (
    ToyDataset,
    ToyTask,
    configure_training,
    inference_config,
    same_tensors,
    steps_saved,
    training_config,
    weights_of,
)

NAN = math.nan
BEST = KeepBest(metric="validation/loss")


class ScriptedTask(ToyTask):
    """Has a given loss in the evaluation after each step."""

    def __init__(self, losses: Sequence[float]) -> None:
        super().__init__()
        self._losses = losses

    def compute_loss(self, ctx: ComputeLossContext) -> ComputeLossResult:
        if ctx.evaluation is None:
            return super().compute_loss(ctx)
        return ComputeLossResult(loss=torch.tensor(self._losses[ctx.stepper.current_step - 1]))


def configured(
    folder: Path, losses: Sequence[float], best: KeepBest = BEST, *, task: ToyTask | None = None, **settings: Any
) -> Trainer:
    """Configure a run with an evaluation after each step, which saves nothing on its own but the last step."""
    more = {"resume": settings.pop("resume")} if "resume" in settings else {}
    checkpointing = {"period_steps": None, "num_to_keep": 1, **settings}
    return configure_training(
        training_config(
            CheckpointingConfig(folder=folder, keep_best=best, **checkpointing), total_steps=len(losses), **more
        ),
        task=task or ScriptedTask(losses),
        evaluations={"validation": Evaluation(dataset_provider=ToyDataset(2), period_steps=1)},
    )


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize(
    ("losses", "best", "kept"),
    [
        ([5, 3, 4, 6], {}, [2, 4]),
        ([5, 4, 3, 2], {}, [4]),
        ([3, 3, 3, 4], {}, [1, 4]),
        ([NAN, 4, NAN, NAN], {}, [2, 4]),
        ([NAN, NAN, NAN, NAN], {}, [4]),
        ([3, math.inf, -math.inf, 0], {}, [3, 4]),
        ([5, 3, 4, 6], {"mode": "max"}, [4]),
        ([5, 6, 6, 1], {"mode": "max"}, [2, 4]),
        ([5, 3, 4, 6, 9], {"num": 2}, [2, 3, 5]),
        ([1, 2, 2, 3, 2], {"num": 2}, [1, 2, 5]),
    ],
)
def test_the_best_checkpoints_are_kept_besides_the_newest(
    losses: list[float], best: dict[str, Any], kept: list[int], tmp_path: Path, *, asynchronous: bool
) -> None:
    """NaN never wins, and of equal results the earlier one stays."""
    keep_best = KeepBest(metric="validation/loss", **best)

    configured(tmp_path, losses, keep_best, asynchronous=asynchronous).train()

    assert steps_saved(tmp_path) == kept


def test_an_improvement_makes_a_save_due_at_once(tmp_path: Path) -> None:
    """At the boundary of the evaluation, in no other step, with the results."""
    trainer = configured(tmp_path, [5, 6, 4, 7], num_to_keep=9)
    saved: list[int] = []
    trainer.event_bus.subscribe(train.EVENT_TRAIN_CHECKPOINT_SAVED, lambda ctx: saved.append(ctx.step))

    trainer.train()

    assert saved == [1, 3, 4]
    assert [Checkpoint.of_step(tmp_path, step).manifest()["evaluations"] for step in saved] == [
        {"validation": {"loss": loss}} for loss in (5, 4, 7)
    ]


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize("left_after", range(1, 7))
def test_a_resumed_run_knows_the_best(left_after: int, tmp_path: Path, *, asynchronous: bool) -> None:
    """It is found in the checkpoints, wherever the run was left; the end is the same."""
    losses = [NAN, 3, 5, 2, 4, 6, 2]
    run = configured(tmp_path, losses, asynchronous=asynchronous, period_steps=3)
    for ctx in run.steps():
        if ctx.stepper.current_step == left_after:
            break

    configured(tmp_path, losses, asynchronous=asynchronous, period_steps=3).train()

    assert steps_saved(tmp_path) == [4, 7]


def test_the_best_counts_only_if_its_checkpoint_is_complete(tmp_path: Path) -> None:
    """A damaged one is not found again, so a worse result is the best now."""
    losses = [3.0, 2.0, 5.0, 4.0, 6.0]
    for ctx in configured(tmp_path, losses, num_to_keep=9, period_steps=1).steps():
        if ctx.stepper.current_step == 3:
            break
    (tmp_path / "step-2" / "state.json").unlink()
    (tmp_path / "step-1" / "state.json").unlink()

    configured(tmp_path, losses, num_to_keep=1, period_steps=1).train()

    assert 4 in steps_saved(tmp_path)
    assert 3 not in steps_saved(tmp_path)


def test_the_best_of_a_branch_is_none_of_the_run_that_it_leaves(tmp_path: Path) -> None:
    """Newer checkpoints are kept under another name, and their results no longer count."""
    losses = [5.0, 4.0, 1.0, 4.5]
    configured(tmp_path, losses, num_to_keep=9, period_steps=1).train()
    resume = ResumeConfig(checkpoint=tmp_path / "step-2")

    branch = configured(tmp_path, [5.0, 4.0, 3.0, 4.5], num_to_keep=1, period_steps=1, resume=resume)
    branch.train()

    assert steps_saved(tmp_path) == [3, 4]
    assert branch.load_best() == tmp_path / "step-3"


def test_the_result_of_a_postponed_evaluation_is_judged_too(tmp_path: Path) -> None:
    """A signal comes first; the resumed run adds the results to the checkpoint that it has resumed from."""

    class Signalled(ScriptedTask):
        def register_events(self, ctx: Any) -> None:
            def send(ctx: train.EventStepContext) -> None:
                if ctx.stepper.current_step == 0:
                    signal.raise_signal(signal.SIGTERM)

            ctx.event_bus.subscribe(train.EVENT_TRAIN_STEP_PRE, send)

    losses = [5.0, 1.0, 4.0, 6.0]
    with pytest.raises(StopRequest):
        configured(tmp_path, losses, task=Signalled(losses)).train()
    assert steps_saved(tmp_path) == [1, 2]

    configured(tmp_path, losses).train()

    assert steps_saved(tmp_path) == [2, 4]


def test_a_metric_that_is_not_reported_is_an_error_at_the_first_evaluation(tmp_path: Path) -> None:
    """The message lists those that are."""
    with pytest.raises(ConfigurationError) as caught:
        configured(tmp_path, [1.0, 2.0], KeepBest(metric="validation/accuracy")).train()

    assert str(caught.value).splitlines()[0] == (
        "checkpointing.keep_best.metric is 'validation/accuracy', and evaluation 'validation' has no such result: name "
        "one of 'validation/loss'"
    )
    assert steps_saved(tmp_path) == []


class SometimesTask(ToyTask):
    """Counts for its metric in the evaluations after some steps only."""

    def __init__(self, steps: Sequence[int]) -> None:
        super().__init__()
        self._steps = steps

    def create_metrics(self, ctx: CreateMetricsContext) -> dict[str, Metric]:
        self._mean = WeightedMeanMetric(ctx.dist_context.device)
        return {"accuracy": self._mean}

    def compute_loss(self, ctx: ComputeLossContext) -> ComputeLossResult:
        if ctx.evaluation is not None and ctx.stepper.current_step in self._steps:
            self._mean.update(torch.tensor(1.0))
        return super().compute_loss(ctx)


def test_a_resumed_run_accepts_an_evaluation_without_the_metric_as_the_first_run_did(tmp_path: Path) -> None:
    """A mean over nothing has no value; checkpoints show that the metric is reported."""
    best = KeepBest(metric="validation/accuracy")
    trainer = configured(tmp_path, [0.0] * 5, best, task=SometimesTask([1, 5]))
    for ctx in trainer.steps():
        if ctx.stepper.current_step == 2:
            break
    configured(tmp_path, [0.0] * 5, best, task=SometimesTask([1, 5])).train()

    assert steps_saved(tmp_path) == [1, 5]


def test_an_evaluation_that_does_not_exist_is_an_error_at_configuration(tmp_path: Path) -> None:
    """The message lists those that do."""
    with pytest.raises(ConfigurationError, match="no evaluation named 'test': this run has 'validation'"):
        configured(tmp_path, [1.0], KeepBest(metric="test/loss"))


def test_settings_that_keep_nothing_are_refused(tmp_path: Path) -> None:
    """In plain words."""
    with pytest.raises(ValidationError, match="metric='loss' is not the name of an evaluation, a slash, and the name"):
        KeepBest(metric="loss")
    with pytest.raises(ValidationError, match="keep_every_steps=10 is not a multiple of period_steps=4, so not all"):
        CheckpointingConfig(folder=tmp_path, period_steps=4, keep_every_steps=10)
    with pytest.raises(ValidationError, match="keep_every_steps=10 is not a multiple of period_steps=None"):
        CheckpointingConfig(folder=tmp_path, period_steps=None, keep_every_steps=10)
    for name, value in (("keep_best", BEST), ("period_epochs", 1)):
        with pytest.raises(ValidationError, match=rf"checkpointing.{name} is set, and inference reads its data once"):
            inference_config(CheckpointingConfig(folder=tmp_path, **{name: value}))
    with pytest.raises(
        ConfigurationError, match=r"is iterable, so it has no epochs, and checkpointing.period_epochs is"
    ):
        configure_training(
            training_config(CheckpointingConfig(folder=tmp_path, period_epochs=1)), dataset=StatefulStream()
        )


class StatefulStream(Stream):
    """A stream with a state."""

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state_dict: dict[str, Any], /) -> None:
        """Load nothing."""


def test_multiples_of_keep_every_steps_are_kept(tmp_path: Path) -> None:
    """Besides the newest, also when the run is resumed."""
    config = CheckpointingConfig(folder=tmp_path, period_steps=1, num_to_keep=2, keep_every_steps=3)
    for ctx in configure_training(training_config(config, total_steps=8)).steps():
        if ctx.stepper.current_step == 5:
            break

    configure_training(training_config(config, total_steps=8)).train()

    assert steps_saved(tmp_path) == [3, 6, 7, 8]


def test_saves_are_due_by_epochs(tmp_path: Path) -> None:
    """Six samples in steps of two: the passes end in steps 3, 6, 9 and 12."""
    config = CheckpointingConfig(folder=tmp_path, period_steps=None, period_epochs=2, num_to_keep=9)

    configure_training(training_config(config, total_steps=14, global_batch_size=2), dataset=ToyDataset(6)).train()

    assert steps_saved(tmp_path) == [6, 12, 14]


def test_load_best_loads_the_weights_alone(tmp_path: Path) -> None:
    """After the training, in the same process and in a new one; optimizer and step stay."""
    trainer = configured(tmp_path, [5, 2, 4, 6])
    (model,) = trainer.modules
    of_steps = [weights_of(model) for _ in trainer.steps()]
    parameters = list(model.parameters())
    state = json.dumps(str(trainer.optimizer.state_dict()))

    assert trainer.load_best() == tmp_path / "step-2"

    assert same_tensors(weights_of(model), of_steps[1])
    assert all(own is other for own, other in zip(model.parameters(), parameters, strict=True))
    assert json.dumps(str(trainer.optimizer.state_dict())) == state
    assert trainer.stepper.current_step == 4
    other = configured(tmp_path, [5, 2, 4, 6])
    assert other.load_best() == tmp_path / "step-2"
    assert same_tensors(weights_of(other.modules[0]), of_steps[1])


def test_load_best_refuses_what_it_cannot_do(tmp_path: Path) -> None:
    """Within a step, without the setting, and without a result."""
    with pytest.raises(ConfigurationError, match=r"load_best needs checkpointing.keep_best"):
        configure_training(training_config(CheckpointingConfig(folder=tmp_path / "none"))).load_best()
    trainer = configured(tmp_path / "a", [NAN, NAN])
    trainer.train()
    with pytest.raises(CheckpointError, match="has a result 'validation/loss' that is a number"):
        trainer.load_best()

    inside = configured(tmp_path / "b", [1.0])

    def load(_: object) -> None:
        inside.load_best()

    inside.event_bus.subscribe(train.EVENT_TRAIN_STEP_POST, load)
    with pytest.raises(RuntimeError, match="within the loop, which is training these weights: call it after"):
        inside.train()


def test_load_best_between_steps_announces_a_save_that_it_waited_for(tmp_path: Path) -> None:
    """No event of a checkpoint is lost."""
    trainer = configured(tmp_path, [5, 6, 7], asynchronous=True)
    saved: list[int] = []
    trainer.event_bus.subscribe(train.EVENT_TRAIN_CHECKPOINT_SAVED, lambda ctx: saved.append(ctx.step))
    for ctx in trainer.steps():
        if ctx.stepper.current_step == 1:
            trainer.load_best()
            assert saved == [1]
    assert saved == [1, 3]


def test_a_report_of_the_best_weights_has_their_step(tmp_path: Path) -> None:
    """The steps after that have their own again."""
    trainer = configured(tmp_path, [5, 6, 7])
    steps: list[tuple[int, int]] = []
    trainer.event_bus.subscribe(
        train.EVENT_TRAIN_REPORT_READY, lambda ctx: steps.append((ctx.stepper.current_step, ctx.report.step))
    )

    for ctx in trainer.steps():
        if ctx.stepper.current_step == 2:
            trainer.load_best()
            trainer.evaluate()

    assert steps == [(1, 1), (2, 2), (2, 1), (3, 3)]


def test_the_command_lists_the_results(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """In a column."""
    configured(tmp_path, [5, NAN]).train()

    assert main(["checkpoint", "ls", str(tmp_path)]) == 0

    _, second, first = capsys.readouterr().out.splitlines()
    assert "validation/loss=NaN" in second
    assert "validation/loss=5 " in first
