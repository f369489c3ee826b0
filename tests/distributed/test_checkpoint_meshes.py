"""What is saved on one division of the model loads into any other, and goes on bit for bit."""

from pathlib import Path

import pytest
import torch
from divided_job import DIVISIONS, RowOptimizer, resume, save, weights
from ranks import run_on_ranks

from d9d.loop.component.checkpoint.storage import Checkpoint

SHORT = ["fsdp", "tensor", "v-shaped pipeline"]


def united(parts: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """Return the numbers of all ranks, those that several hold being the same."""
    whole: dict[str, torch.Tensor] = {}
    for part in parts:
        for name, value in part.items():
            assert torch.equal(whole.setdefault(name, value), value), name
    return whole


def assert_goes_on(source: str, target: str, folder: Path) -> None:
    """Save on one division, resume on another, and compare with what the first one came to."""
    expected = united(run_on_ranks(DIVISIONS[source].num_ranks, save, DIVISIONS[source], folder))
    found = united(run_on_ranks(DIVISIONS[target].num_ranks, resume, DIVISIONS[target], folder))

    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(found[name], value), name


@pytest.mark.parametrize("division", SHORT)
def test_what_a_divided_job_saves_one_process_goes_on_from(division: str, tmp_path: Path) -> None:
    """With the same weights, moments and learning rates."""
    assert_goes_on(division, "alone", tmp_path)


@pytest.mark.parametrize("division", SHORT)
def test_what_one_process_saves_a_divided_job_goes_on_from(division: str, tmp_path: Path) -> None:
    """The other way round."""
    assert_goes_on("alone", division, tmp_path)


@pytest.mark.parametrize(("source", "target"), [("fsdp", "alone"), ("v-shaped pipeline", "tensor"), ("alone", "fsdp")])
def test_inference_takes_its_weights_from_any_division(source: str, target: str, tmp_path: Path) -> None:
    """Whatever the division of the model that was trained, and of the one that infers."""
    run_on_ranks(DIVISIONS[source].num_ranks, save, DIVISIONS[source], tmp_path)
    saved = Checkpoint(tmp_path / "step-3").read("model")["model"]

    found = united(run_on_ranks(DIVISIONS[target].num_ranks, weights, DIVISIONS[target], tmp_path))

    assert found.keys() == saved.keys()
    for name, value in saved.items():
        assert torch.equal(found[name], value), name


@pytest.mark.slow
@pytest.mark.parametrize("optimizer_type", [RowOptimizer, torch.optim.SGD, torch.optim.Adagrad])
@pytest.mark.parametrize("target", ["alone", "fsdp", "tensor"])
@pytest.mark.parametrize("source", ["alone", "fsdp", "tensor"])
def test_moments_of_any_shape_go_on(
    source: str, target: str, optimizer_type: type[torch.optim.Optimizer], tmp_path: Path
) -> None:
    """One for each row of a weight, or none at all."""
    expected = united(run_on_ranks(DIVISIONS[source].num_ranks, save, DIVISIONS[source], tmp_path, optimizer_type))
    found = united(run_on_ranks(DIVISIONS[target].num_ranks, resume, DIVISIONS[target], tmp_path, optimizer_type))

    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value)


@pytest.mark.slow
@pytest.mark.parametrize("target", DIVISIONS)
@pytest.mark.parametrize("source", DIVISIONS)
def test_what_any_division_saves_any_other_goes_on_from(source: str, target: str, tmp_path: Path) -> None:
    """Every one into every one, itself included."""
    assert_goes_on(source, target, tmp_path)
