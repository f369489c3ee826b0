"""The language model example has the same results on any number of processes."""

import dataclasses
import json
import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from layout_job import full_weights, record_losses
from ranks import run_on_ranks
from torch import nn
from torch.distributed.tensor import DTensor

import infer
import train
from corpus import SourceFile, read_corpus
from d9d.core.dist_context import DeviceMeshParameters
from d9d.core.pipeline import ScheduleName
from d9d.loop.config import PipelineConfig
from d9d.loop.event.catalogue.train import EVENT_TRAIN_OPTIMIZER_STEP_PRE, EventStepContext
from d9d.loop.run import Trainer
from layers import Projection
from layout import Layout
from preset import PRESETS, Preset
from task import LanguageModelTask

ROOT = Path(__file__).parents[2]
NUM_STEPS = 6
TINY = dataclasses.replace(PRESETS["tiny"], total_steps=NUM_STEPS, warmup_steps=2, report_period_steps=3)
FOUR_BLOCKS = dataclasses.replace(TINY, model=dataclasses.replace(TINY.model, num_blocks=4))


def layout(schedule: ScheduleName = "1f1b", **sizes: int) -> Layout:
    return Layout(device="cpu", mesh=DeviceMeshParameters(**sizes), pipeline=PipelineConfig(schedule=schedule))


LAYOUTS = {
    "fsdp": layout(data_parallel_shard=2),
    "hsdp": layout(data_parallel_replicate=2),
    "experts": layout(data_parallel_shard=2, expert_parallel=2),
    "pipeline": layout(pipeline_parallel=2),
}
LAYOUTS_OF_FOUR = {
    "fsdp": layout(data_parallel_shard=4),
    "hsdp": layout(data_parallel_replicate=2, data_parallel_shard=2),
    "experts": layout(data_parallel_shard=4, expert_parallel=4),
    "experts in two copies": layout(data_parallel_replicate=2, data_parallel_shard=2, expert_parallel=2),
    "pipeline and fsdp": layout(pipeline_parallel=2, data_parallel_shard=2),
    "pipeline and experts": layout(pipeline_parallel=2, data_parallel_shard=2, expert_parallel=2),
}


@contextmanager
def small_corpus() -> Iterator[list[SourceFile]]:
    """Use only some short files, so that the tests are quick."""
    files = sorted(read_corpus(), key=lambda file: len(file.content))[-700:-400]
    with mock.patch("train.read_corpus", return_value=files), mock.patch("infer.read_corpus", return_value=files):
        yield files


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What one process recorded of a training run.

    Attributes:
        losses: The loss of each step.
        weights: The full weights of its stages, by name.
        gradients: The full gradients of the last step, by name; compared because AdamW hides their scale.
        shares: The share of tokens of each expert in each layer, for each report.
        lines: The logged lines about the routing.
    """

    losses: list[float]
    weights: dict[str, torch.Tensor]
    gradients: dict[str, torch.Tensor]
    shares: list[torch.Tensor]
    lines: list[str]


def train_in(where: Layout, preset: Preset = TINY, run_folder: Path | None = None) -> Outcome:
    """Train the example, as one of its processes."""
    with small_corpus():
        trainer = train.configure(preset, run_folder, where)
    losses, gradients, shares = record_losses(trainer), record_gradients(trainer), record_shares(trainer.task)
    handler = ListHandler()
    logging.getLogger("task").addHandler(handler)
    logging.getLogger("task").setLevel(logging.INFO)
    trainer.train()
    logging.getLogger("task").removeHandler(handler)
    return Outcome([loss.item() for loss in losses], full_weights(trainer), gradients, shares, handler.lines)


class ListHandler(logging.Handler):
    """Keeps all log messages."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


def record_gradients(trainer: Trainer) -> dict[str, torch.Tensor]:
    """Record the full gradients of the latest step."""
    gradients: dict[str, torch.Tensor] = {}

    def note(ctx: EventStepContext) -> None:
        for name, parameter in (pair for module in trainer.modules for pair in module.named_parameters()):
            assert parameter.grad is not None
            gradient = parameter.grad
            gradients[name] = (gradient.full_tensor() if isinstance(gradient, DTensor) else gradient).clone()

    trainer.event_bus.subscribe(EVENT_TRAIN_OPTIMIZER_STEP_PRE, note)
    return gradients


def record_shares(task: Any) -> list[torch.Tensor]:
    """Record the expert shares of each report."""
    assert isinstance(task, LanguageModelTask)
    shares: list[torch.Tensor] = []
    take_statistics = task._load_balancer.take_statistics

    def take_and_note() -> Any:
        statistics = take_statistics()
        shares.append(statistics.shares)
        return statistics

    task._load_balancer.take_statistics = take_and_note  # type: ignore[method-assign]
    return shares


@pytest.fixture(scope="module")
def alone() -> Outcome:
    return train_in(layout())


def expect_the_same(outcomes: list[Outcome], expected: Outcome) -> None:
    for outcome in outcomes:
        assert outcome.losses == pytest.approx(expected.losses, abs=1e-4)
        torch.testing.assert_close(outcome.shares, expected.shares, atol=1e-3, rtol=0)
        for name, weight in outcome.weights.items():
            torch.testing.assert_close(weight, expected.weights[name], atol=1e-4, rtol=1e-4, msg=name)
        for name, gradient in outcome.gradients.items():
            norm = expected.gradients[name].norm()
            assert (gradient - expected.gradients[name]).norm() < 0.001 * norm, name
    assert len(expected.lines) == len(expected.shares) * len(expected.shares[0]) > 0
    assert {name for outcome in outcomes for name in outcome.weights} == expected.weights.keys()
    assert [line[:24] for line in outcomes[0].lines] == [line[:24] for line in expected.lines]
    assert not any(outcome.lines for outcome in outcomes[1:])


@pytest.mark.parametrize(
    ("num_ranks", "name"),
    [
        *((2, name) for name in LAYOUTS),
        *(pytest.param(4, name, marks=pytest.mark.slow) for name in LAYOUTS_OF_FOUR),
    ],
)
def test_losses_weights_and_routing_equal_those_of_one_process(num_ranks: int, name: str, alone: Outcome) -> None:
    """Every layout gives the results of one process, and only the main process reports the routing of all layers."""
    where = (LAYOUTS if num_ranks == 2 else LAYOUTS_OF_FOUR)[name]

    expect_the_same(run_on_ranks(num_ranks, train_in, where), alone)


@pytest.mark.slow
def test_a_pipeline_of_two_processes_with_two_stages_each_trains_as_one_process() -> None:
    """With a V schedule the first process has the first and last blocks; results equal those of one process."""
    expected = train_in(layout(), FOUR_BLOCKS)

    expect_the_same(run_on_ranks(2, train_in, layout("zbv", pipeline_parallel=2), FOUR_BLOCKS), expected)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("experts", "pipeline"),
        pytest.param("pipeline", "fsdp", marks=pytest.mark.slow),
        pytest.param("fsdp", "experts", marks=pytest.mark.slow),
    ],
)
def test_a_run_resumes_in_another_layout(before: str, after: str, alone: Outcome, tmp_path: Path) -> None:
    """The losses after resuming equal those of one process."""
    preset = dataclasses.replace(TINY, checkpoint_period_steps=NUM_STEPS // 2)
    run_on_ranks(2, train_in, LAYOUTS[before], preset, tmp_path)
    shutil.rmtree(tmp_path / "checkpoints" / f"step-{NUM_STEPS}")

    for outcome in run_on_ranks(2, train_in, LAYOUTS[after], preset, tmp_path):
        assert outcome.losses == pytest.approx(alone.losses[NUM_STEPS // 2 :], abs=1e-4)


def test_more_stages_than_blocks_are_refused() -> None:
    """The error says how many stages would work."""
    with pytest.raises(Exception, match="the model only 2 layers to divide among them: use at most 2 stages"):
        run_on_ranks(2, train_in, layout("zbv", pipeline_parallel=2))


def test_a_number_of_experts_that_does_not_divide_evenly_is_refused() -> None:
    """The error says which expert-parallel sizes would work."""
    odd = dataclasses.replace(TINY, model=dataclasses.replace(TINY.model, num_experts=3))

    with pytest.raises(
        Exception,
        match="a multiple of expert_parallel=2: set expert_parallel to 1 or 3",
    ):
        run_on_ranks(2, train_in, LAYOUTS["experts"], odd)


def draw_widely(projection: Projection) -> None:
    nn.init.normal_(projection.weight, std=0.5)


def infer_in(where: Layout, output: Path) -> None:
    """Evaluate an untrained model, with a randomly initialised head, as one of its processes."""
    with small_corpus(), mock.patch.object(Projection, "reset_parameters", draw_widely):
        inference = infer.configure(TINY, None, output, where)
        inference.infer()


@pytest.mark.parametrize("name", ["experts", "pipeline", pytest.param("fsdp", marks=pytest.mark.slow)])
def test_the_report_on_held_out_files_equals_that_of_one_process(name: str, tmp_path: Path) -> None:
    """Each process evaluates its part of the files, and the main process writes the same report as one process."""
    infer_in(layout(), tmp_path / "alone.json")
    run_on_ranks(2, infer_in, LAYOUTS[name], tmp_path / "together.json")

    alone, together = (json.loads((tmp_path / name).read_text()) for name in ("alone.json", "together.json"))
    assert len(set(alone["files"].values())) > 1
    assert together["num_bytes"] == alone["num_bytes"]
    assert together["files"] == pytest.approx(alone["files"], rel=1e-4)


def run_script(script: str, num_ranks: int, *flags: str) -> str:
    """Start a script of the example with torchrun, and return its output."""
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(num_ranks)]
    finished = subprocess.run(
        [*command, f"examples/bytes_lm/{script}", "--preset", "tiny", "--device", "cpu", *flags],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr
    return finished.stdout + finished.stderr


@pytest.mark.parametrize(
    ("num_ranks", "flags"),
    [
        (2, "--pipeline-parallel 2"),
        pytest.param(2, "--data-parallel-shard 2 --expert-parallel 2", marks=pytest.mark.slow),
        pytest.param(4, "--data-parallel-replicate 2 --data-parallel-shard 2", marks=pytest.mark.slow),
        pytest.param(4, "--pipeline-parallel 2 --data-parallel-shard 2 --schedule gpipe", marks=pytest.mark.slow),
    ],
)
def test_train_runs_under_torchrun(num_ranks: int, flags: str, tmp_path: Path) -> None:
    """`train.py` accepts the layout as flags, and only one process reports progress."""
    printed = run_script("train.py", num_ranks, "--run-folder", str(tmp_path), *flags.split())

    assert printed.count(f"saved {tmp_path / 'checkpoints' / 'step-20'}") == 1
    assert printed.count("step 20 of 20: loss") == 1
    assert [printed.count(f"step 20, MoE layer {index}: experts take") for index in (0, 1)] == [1, 1]


@pytest.mark.slow
def test_infer_runs_under_torchrun(tmp_path: Path) -> None:
    """`infer.py --untrained` reports log2(257) bits per byte, once."""
    printed = run_script("infer.py", 2, "--untrained", "--data-parallel-shard", "2", "--run-folder", str(tmp_path))

    assert printed.count("8.006 bits per byte") == 1
    assert printed.count("the prompt is not continued, since no process has the whole model") == 1
    assert json.loads((tmp_path / "untrained.json").read_text())["bits_per_byte"] == pytest.approx(8.0056, abs=1e-3)
