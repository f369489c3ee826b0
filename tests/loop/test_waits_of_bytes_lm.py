"""The language model example makes the host wait for the device only where a report is due."""

import dataclasses
from collections.abc import Iterator
from unittest import mock

import pytest
import torch
from readings import readings
from torch import distributed
from torch.distributed.tensor import DTensor

import train
from balancing import LoadBalancer
from corpus import SourceFile
from d9d.core.dist_context import DeviceMeshParameters, DistributedContext
from experts import MixtureOfExperts
from layout import Layout
from preset import PRESETS

SILENT = dataclasses.replace(PRESETS["tiny"], report_period_steps=None)


@pytest.fixture(autouse=True)
def small_corpus() -> Iterator[None]:
    files = [SourceFile("some.py", b"pass\n" * 1000)]
    with mock.patch("train.read_corpus", return_value=files):
        yield


def read_in_training(layout: Layout) -> list[str]:
    trainer = train.configure(SILENT, None, layout)
    with readings("meta") as found:
        trainer.train()
    return found


def test_steps_read_no_value() -> None:
    """Routing, experts, losses and load balancing read no value from the device."""
    assert read_in_training(Layout(device="meta")) == []


@pytest.fixture
def two_processes() -> Iterator[None]:
    """Act as the first of two processes in a fake process group."""
    distributed.init_process_group("fake", rank=0, world_size=2)
    try:
        yield
    finally:
        distributed.destroy_process_group()


@pytest.mark.usefixtures("two_processes")
def test_expert_parallel_dispatch_reads_no_value() -> None:
    """Sending tokens to experts on other processes and back reads no value, such as the number of tokens per expert."""
    mesh = DeviceMeshParameters(data_parallel_shard=2, expert_parallel=2)
    context = DistributedContext.start("meta", mesh)
    with torch.device("meta"):
        layer = MixtureOfExperts(width=16, hidden_width=8, num_experts=4, top_k=2, output_std=0.02)
        features = torch.empty(3, 5, 16, requires_grad=True)
    layer.divide_experts(context)
    balancer = LoadBalancer({0: layer}, num_layers=1, rate=0.01, dist_context=context)

    with readings("meta") as found:
        outputs = layer(features)
        outputs.float().sum().backward()
        balancer.step()
        balancer.take_statistics()

    assert found == []
    assert outputs.shape == features.shape
    assert isinstance(layer.experts.down.grad, DTensor)
    assert layer.experts.down.grad.to_local().shape == (2, 8, 16)
