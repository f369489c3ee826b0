"""Inference hands over the same outputs in every layout, once each, and in an order that can be told."""

import functools

import pytest
import torch
from declared import declared_run, violation
from inference_job import NUM_SAMPLES, NUM_STEPS, Found, infer_in
from layout_job import LAYOUTS, Samples
from ranks import run_on_ranks

from d9d.core.dist_context import DeviceMeshParameters

SHORT = [(name, 4 if "+" in name else 2) for name in LAYOUTS if name != "plain"]
LONG = [(name, 2 if "+" in name else 4) for name, _ in SHORT]
EVERY_LAYOUT = [*SHORT, *(pytest.param(*each, marks=pytest.mark.slow) for each in LONG)]


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@functools.cache
def alone() -> Found:
    """Run inference in one process."""
    return infer_in("plain", 1)


@functools.cache
def together(name: str, num_ranks: int) -> list[Found]:
    """Run inference in a layout, and return what each process saw."""
    found: list[Found] = run_on_ranks(num_ranks, infer_in, name, num_ranks)
    return found


@pytest.mark.parametrize(("name", "num_ranks"), [("plain", 1), *EVERY_LAYOUT])
def test_each_sample_is_handed_over_once(name: str, num_ranks: int) -> None:
    """By one process, or by each of those that divide its matrices or itself; the last step is not full."""
    found = [alone()] if num_ranks == 1 else together(name, num_ranks)
    mesh = LAYOUTS[name].mesh[num_ranks] if num_ranks > 1 else DeviceMeshParameters()
    num_copies = mesh.tensor_parallel * mesh.context_parallel

    assert sorted(sample for each in found for sample in each.samples) == sorted([*range(NUM_SAMPLES)] * num_copies)


@pytest.mark.parametrize(("name", "num_ranks"), EVERY_LAYOUT)
def test_outputs_are_those_of_one_process(name: str, num_ranks: int) -> None:
    """Put into the order of the dataset by the indices of their samples, as are the batches beside them."""
    expected, classes = torch.stack(alone().logits), Samples(NUM_SAMPLES).classes

    assert alone().samples == [*range(NUM_SAMPLES)]
    for each in together(name, num_ranks):
        for sample, logits, target in zip(each.samples, each.logits, each.targets, strict=True):
            torch.testing.assert_close(logits, expected[sample], atol=1e-5, rtol=1e-5)
            assert target == classes[sample]


@pytest.mark.parametrize(("name", "num_ranks"), EVERY_LAYOUT)
def test_the_trace_of_every_rank_is_legal(name: str, num_ranks: int) -> None:
    """By the lifecycle that the catalogue declares."""
    for each in together(name, num_ranks):
        found = violation("inference", each.trace, complete=True)
        assert found is None, found
        assert each.trace == declared_run("inference", num_steps=NUM_STEPS)
