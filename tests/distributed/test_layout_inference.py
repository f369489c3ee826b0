"""Inference gives the same outputs in every layout, each exactly once, with the indices of their samples."""

import functools

import pytest
import torch
from declared import violation
from inference_job import NUM_SAMPLES, NUM_STEPS, Found, infer_in
from layout_job import LAYOUTS, Samples
from ranks import run_on_ranks

from d9d.core.dist_context import DeviceMeshParameters

NUM_PROCESSES = {name: 4 if "+" in name else 2 for name in LAYOUTS if name != "plain"}
ALWAYS_RUN = [("fsdp", 2), ("tensor", 2), ("context", 2), ("1f1b", 2), ("interleaved", 2), ("zbv+fsdp", 4)]
CASES = [
    pytest.param(name, num_ranks, marks=[] if (name, num_ranks) in ALWAYS_RUN else pytest.mark.slow)
    for name in NUM_PROCESSES
    for num_ranks in (2, 4)
]


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@functools.cache
def alone() -> Found:
    """Run inference in one process."""
    return infer_in("plain", 1)


def test_one_process_gets_each_sample_once_and_in_order() -> None:
    """One process gets each sample once and in order, although the last step is not full."""
    assert alone().samples == [*range(NUM_SAMPLES)]
    assert violation("inference", alone().trace, complete=True) is None
    assert alone().trace.count("inference.step.post") == NUM_STEPS


@pytest.mark.parametrize(("name", "num_ranks"), CASES)
def test_a_layout_gives_the_outputs_of_one_process(name: str, num_ranks: int) -> None:
    """Outputs, matched by sample index, equal those of one process, and every rank triggers the declared events."""
    found: list[Found] = run_on_ranks(num_ranks, infer_in, name, num_ranks)

    require_each_sample_once(found, LAYOUTS[name].mesh[num_ranks])
    require_equal_outputs(found)
    for each in found:
        problem = violation("inference", each.trace, complete=True)
        assert problem is None, problem
        assert each.trace.count("inference.step.post") == NUM_STEPS


def require_each_sample_once(found: list[Found], mesh: DeviceMeshParameters) -> None:
    """Check that each sample is processed once, by all ranks of one tensor- and context-parallel group."""
    num_copies = mesh.tensor_parallel * mesh.context_parallel
    assert sorted(sample for each in found for sample in each.samples) == sorted([*range(NUM_SAMPLES)] * num_copies)


def require_equal_outputs(found: list[Found]) -> None:
    """Check the logits and the classes of each sample."""
    expected, classes = torch.stack(alone().logits), Samples(NUM_SAMPLES).classes
    for each in found:
        for sample, logits, target in zip(each.samples, each.logits, each.targets, strict=True):
            torch.testing.assert_close(logits, expected[sample], atol=1e-5, rtol=1e-5)
            assert target == classes[sample]
