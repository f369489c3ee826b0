"""Weights sharded over several ranks are exported as one model, and load on any mesh."""

import json
from pathlib import Path

import pytest
import torch
from ranks import run_on_ranks
from safetensors.torch import load_file
from sharded_job import SHARDINGS, Job, Sharding

from d9d.loop.component.checkpoint.export import WeightExporter, export_weights
from d9d.loop.component.checkpoint.source import find_source, load_weights
from d9d.loop.component.checkpoint.storage import Checkpoint


def export(sharding: Sharding, folder: Path) -> dict[str, torch.Tensor]:
    job = Job(sharding, folder / "unused")
    job.step()
    WeightExporter(job.stages, job.ranks).export(folder / "exported")
    return {name: value for name, value in job.numbers().items() if "exp_avg" not in name and "/" not in name}


def load(sharding: Sharding, folder: Path) -> dict[str, torch.Tensor]:
    job = Job(sharding, folder / "unused")
    load_weights(find_source(folder / "exported", job.ranks), job.stages, job.ranks)
    return {name: value for name, value in job.numbers().items() if "/" not in name}


def export_in_pieces(sharding: Sharding, folder: Path) -> None:
    job = Job(sharding, folder / "checkpoints")
    (folder / "checkpoints").mkdir(exist_ok=True)
    job.step()
    job.checkpointer.save()
    export_weights(Checkpoint(folder / "checkpoints" / "step-1"), folder / "exported", job.ranks, max_file_bytes=1)


def test_each_rank_writes_some_of_the_files(tmp_path: Path) -> None:
    """Together they write all of them."""
    run_on_ranks(2, export_in_pieces, SHARDINGS["fsdp"], tmp_path)
    index = json.loads((tmp_path / "exported" / "model.safetensors.index.json").read_text())
    files = {path.name for path in (tmp_path / "exported").glob("*.safetensors")}

    assert set(index["weight_map"].values()) == files
    assert len(files) == len(index["weight_map"]) == 16


@pytest.mark.parametrize("name", ["fsdp", "tensor", "replicated", "pipeline", "v-shaped pipeline"])
def test_any_mesh_exports_the_same_model_and_loads_it(name: str, tmp_path: Path) -> None:
    """Names, shapes and values are those of one process."""
    sharding = SHARDINGS[name]
    stages = run_on_ranks(2, export, sharding, tmp_path)
    weights = {name: value for numbers in stages for name, value in numbers.items()}
    files = sorted((tmp_path / "exported").glob("*.safetensors"))
    found = {name: tensor for file in files for name, tensor in load_file(file).items()}

    assert found.keys() == weights.keys()
    assert all(torch.equal(found[name], weights[name]) for name in weights)
    for other in (sharding, SHARDINGS["alone"]):
        for numbers in run_on_ranks(other.num_ranks, load, other, tmp_path):
            assert all(torch.equal(numbers[name], weights[name]) for name in numbers)
