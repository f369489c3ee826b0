"""The language model example comes to the same on any number of processes."""

import dataclasses
import itertools
import json
import logging
import os
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

import infer
import train
from corpus import SourceFile, read_corpus
from d9d.core.dist_context import DeviceMeshParameters
from d9d.core.pipeline import ScheduleName
from d9d.loop.config import ConfigurationError, PipelineConfig
from layout import Layout
from preset import PRESETS, Preset
from task import LanguageModelTask

ROOT = Path(__file__).parents[2]
NUM_STEPS = 6
TINY = dataclasses.replace(
    PRESETS["tiny"], total_steps=NUM_STEPS, warmup_steps=2, report_period_steps=3, max_gradient_norm=None
)
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
    """Some short files, so that all is quick."""
    files = sorted(read_corpus(), key=lambda file: len(file.content))[-700:-400]
    with mock.patch("train.read_corpus", lambda: files), mock.patch("infer.read_corpus", lambda: files):
        yield files


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What a process saw of a training run.

    Attributes:
        losses: The loss of each step.
        weights: The full weights of its stages, by name.
        shares: The share of each expert in each layer, of each report.
        lines: What it logged of the routing.
    """

    losses: list[float]
    weights: dict[str, torch.Tensor]
    shares: list[torch.Tensor]
    lines: list[str]


def train_in(where: Layout, preset: Preset = TINY) -> Outcome:
    """Train the example, as one of its processes."""
    with small_corpus():
        trainer = train.configure(preset, None, where)
    losses, shares = record_losses(trainer), record_shares(trainer.task)
    handler = ListHandler()
    logging.getLogger("task").addHandler(handler)
    logging.getLogger("task").setLevel(logging.INFO)
    trainer.train()
    logging.getLogger("task").removeHandler(handler)
    return Outcome([loss.item() for loss in losses], full_weights(trainer), shares, handler.lines)


class ListHandler(logging.Handler):
    """Keeps what is logged."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


def record_shares(task: Any) -> list[torch.Tensor]:
    """Note the statistics of each report."""
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
    """However processes divide the work; the main process alone tells of the routing in all layers."""
    where = (LAYOUTS if num_ranks == 2 else LAYOUTS_OF_FOUR)[name]

    expect_the_same(run_on_ranks(num_ranks, train_in, where), alone)
