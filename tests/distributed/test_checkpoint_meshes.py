"""A checkpoint saved on one mesh loads on any other, and training continues bit for bit."""

from pathlib import Path

import pytest
import torch
from ranks import run_on_ranks
from sharded_job import SHARDINGS, RowOptimizer, resume, save, weights

from d9d.loop.component.checkpoint.storage import Checkpoint

SHORT = ["fsdp", "tensor", "v-shaped pipeline"]


def merged(parts: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """Return the values of all ranks; those that several ranks hold must be the same."""
    whole: dict[str, torch.Tensor] = {}
    for part in parts:
        for name, value in part.items():
            assert torch.equal(whole.setdefault(name, value), value), name
    return whole


def assert_resumes(source: str, target: str, folder: Path) -> None:
    """Save on one mesh, resume on another, and compare with the continued first run."""
    expected = merged(run_on_ranks(SHARDINGS[source].num_ranks, save, SHARDINGS[source], folder))
    found = merged(run_on_ranks(SHARDINGS[target].num_ranks, resume, SHARDINGS[target], folder))

    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(found[name], value), name


@pytest.mark.parametrize("sharding", SHORT)
def test_one_process_resumes_from_a_sharded_job(sharding: str, tmp_path: Path) -> None:
    """One process loads the weights, moments and learning rates that a sharded job saved."""
    assert_resumes(sharding, "alone", tmp_path)


@pytest.mark.parametrize("sharding", SHORT)
def test_a_sharded_job_resumes_from_one_process(sharding: str, tmp_path: Path) -> None:
    """A sharded job loads the weights, moments and learning rates that one process saved."""
    assert_resumes("alone", sharding, tmp_path)


@pytest.mark.parametrize(("source", "target"), [("fsdp", "alone"), ("v-shaped pipeline", "tensor"), ("alone", "fsdp")])
def test_inference_loads_weights_from_any_mesh(source: str, target: str, tmp_path: Path) -> None:
    """Inference loads the weights of training, for each pair of meshes."""
    run_on_ranks(SHARDINGS[source].num_ranks, save, SHARDINGS[source], tmp_path)
    saved = Checkpoint(tmp_path / "step-3").read("model")["model"]

    found = merged(run_on_ranks(SHARDINGS[target].num_ranks, weights, SHARDINGS[target], tmp_path))

    assert found.keys() == saved.keys()
    for name, value in saved.items():
        assert torch.equal(found[name], value), name


@pytest.mark.slow
@pytest.mark.parametrize("optimizer_type", [RowOptimizer, torch.optim.SGD, torch.optim.Adagrad])
@pytest.mark.parametrize("target", ["alone", "fsdp", "tensor"])
@pytest.mark.parametrize("source", ["alone", "fsdp", "tensor"])
def test_moments_of_any_shape_are_resumed(
    source: str, target: str, optimizer_type: type[torch.optim.Optimizer], tmp_path: Path
) -> None:
    """Optimizer state with one moment per row, or without moments, is resumed."""
    expected = merged(run_on_ranks(SHARDINGS[source].num_ranks, save, SHARDINGS[source], tmp_path, optimizer_type))
    found = merged(run_on_ranks(SHARDINGS[target].num_ranks, resume, SHARDINGS[target], tmp_path, optimizer_type))

    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value)


@pytest.mark.slow
@pytest.mark.parametrize("target", SHARDINGS)
@pytest.mark.parametrize("source", SHARDINGS)
def test_any_mesh_resumes_from_any_other(source: str, target: str, tmp_path: Path) -> None:
    """For each pair of meshes, the resumed job continues with identical numbers."""
    assert_resumes(source, target, tmp_path)
