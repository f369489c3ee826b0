"""Weights are exported to safetensors files, which other tools and inference load."""

import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from d9d.loop.component.checkpoint.export import WeightExporter, export_weights
from d9d.loop.component.checkpoint.files import CheckpointError
from d9d.loop.component.checkpoint.source import ExportedWeights, find_source, load_weights
from d9d.loop.component.checkpoint.storage import Checkpoint
from d9d.loop.component.ranks import ALONE
from d9d.loop.config import CheckpointingConfig
from d9d.loop.run import Trainer

from .test_checkpoint import largest_file
from .toy_job import (
    ToyInferenceTask,
    ToyModelProvider,
    configure_inference,
    configure_training,
    inference_config,
    same_tensors,
    training_config,
    weights_of,
)

FILE = "model.safetensors"
NUMBERS = {
    "wide": torch.arange(6, dtype=torch.float64).reshape(2, 3),
    "odd": torch.arange(3, dtype=torch.bfloat16),
    "flags": torch.tensor([True, False, True]),
    "single": torch.tensor(7, dtype=torch.int64),
    "empty": torch.zeros(0, 4),
    "eight": torch.arange(5).to(torch.float8_e4m3fn),
    "complex": torch.tensor([1 + 2j], dtype=torch.complex64),
    "matrix": torch.randn(3, 5),
}


def trained(every_step: CheckpointingConfig) -> Trainer:
    trainer = configure_training(training_config(every_step))
    trainer.train()
    return trainer


def bits(tensors: dict[str, torch.Tensor]) -> dict[str, tuple[torch.dtype, list[int], bytes]]:
    return {
        name: (tensor.dtype, list(tensor.shape), tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
        for name, tensor in tensors.items()
    }


class Buffers(nn.Module):
    """Has a buffer for each given tensor."""

    def __init__(self, tensors: dict[str, torch.Tensor]) -> None:
        super().__init__()
        for name, tensor in tensors.items():
            self.register_buffer(name, tensor)


def test_the_safetensors_package_reads_an_export_of_every_dtype(tmp_path: Path) -> None:
    """Values are the same bit for bit, and each tensor is aligned for its dtype."""
    WeightExporter([Buffers(NUMBERS)], ALONE).export(tmp_path / "exported")
    content = (tmp_path / "exported" / FILE).read_bytes()
    num_header_bytes = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:num_header_bytes])

    assert bits(load_file(tmp_path / "exported" / FILE)) == bits(NUMBERS)
    for name, tensor in NUMBERS.items():
        assert (num_header_bytes + header[name]["data_offsets"][0]) % tensor.dtype.itemsize == 0


def test_every_dtype_that_the_safetensors_package_writes_is_loaded(tmp_path: Path) -> None:
    """In whichever order the package writes them, from a link as in the cache of Hugging Face."""
    save_file(NUMBERS, tmp_path / "blob", metadata={"made": "elsewhere"})
    path = tmp_path / "theirs.safetensors"
    path.symlink_to("blob")
    model = Buffers({name: torch.zeros_like(tensor) for name, tensor in NUMBERS.items()})

    load_weights(find_source(path), [model])

    assert bits(dict(model.named_buffers())) == bits(NUMBERS)


def test_training_exports_its_weights(every_step: CheckpointingConfig, tmp_path: Path) -> None:
    """As they are at that moment, in one file with the name that Hugging Face gives it, and nothing else."""
    trainer = trained(every_step)
    trainer.export(tmp_path / "exported")
    weights = weights_of(trainer.modules[0])

    assert same_tensors(load_file(tmp_path / "exported" / FILE), weights)
    with safe_open(tmp_path / "exported" / FILE, framework="pt") as file:
        assert file.metadata() == {"format": "pt"}
    assert [path.name for path in (tmp_path / "exported").iterdir()] == [FILE]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoints", "exported"]


def test_a_large_model_is_split_into_files(every_step: CheckpointingConfig, tmp_path: Path) -> None:
    """None is larger than the limit, except for a single larger tensor; the index of Hugging Face lists them."""
    weights = weights_of(trained(every_step).modules[0])
    export_weights(Checkpoint(every_step.folder / "step-3"), tmp_path / "exported", max_file_bytes=32)
    files = sorted((tmp_path / "exported").glob("*.safetensors"))
    parts = [load_file(file) for file in files]

    assert [file.name for file in files] == [f"model-0000{number}-of-00003.safetensors" for number in (1, 2, 3)]
    assert [sum(tensor.nbytes for tensor in part.values()) for part in parts] == [48, 32, 4]
    assert same_tensors({name: tensor for part in parts for name, tensor in part.items()}, weights)
    index = json.loads((tmp_path / "exported" / "model.safetensors.index.json").read_text())
    assert index["metadata"] == {"total_size": sum(weight.nbytes for weight in weights.values())}
    assert index["weight_map"] == {name: file.name for file, part in zip(files, parts, strict=True) for name in part}
    assert ExportedWeights.find(tmp_path / "exported").tensors.keys() == weights.keys()


@pytest.mark.parametrize("source", ["exported", f"exported/{FILE}"])
def test_inference_starts_from_exported_weights(source: str, every_step: CheckpointingConfig, tmp_path: Path) -> None:
    """From a folder or a file, with the same outputs as from the checkpoint."""
    trained(every_step).export(tmp_path / "exported")
    tasks = [ToyInferenceTask(), ToyInferenceTask()]
    for task, path in zip(tasks, (every_step.folder, tmp_path / source), strict=True):
        configure_inference(inference_config(source_checkpoint=path, seed=5), task=task).infer()

    assert tasks[0].predictions == tasks[1].predictions
    assert len(tasks[0].predictions) == 12


def test_inference_does_not_resume_with_other_exported_weights(every_step: CheckpointingConfig, tmp_path: Path) -> None:
    """Even if names, dtypes and shapes are the same."""
    trainer = configure_training(training_config())
    trainer.export(tmp_path / "exported")
    config = inference_config(every_step, source_checkpoint=tmp_path / "exported")
    configure_inference(config).infer()
    shutil.rmtree(tmp_path / "exported")
    trainer.train()
    trainer.export(tmp_path / "exported")

    with pytest.raises(CheckpointError, match=r"source_checkpoint is 'exported \(.*\)' here and 'exported \("):
        configure_inference(config).infer()


def test_exported_weights_of_another_model_are_refused(tmp_path: Path) -> None:
    """The error has name, dtype and shape of each that differs."""
    configure_training(training_config()).export(tmp_path / "exported")
    config = inference_config(source_checkpoint=tmp_path / "exported")

    with pytest.raises(CheckpointError) as caught:
        configure_inference(config, model_provider=ToyModelProvider(num_hidden=5))
    assert str(caught.value).startswith(f"the weights in {tmp_path / 'exported'} do not fit this model:")
    assert "shape: '0.weight' is float32[5, 3] in the model and float32[4, 3] in the weights" in str(caught.value)


def cut_off(folder: Path) -> None:
    content = (folder / FILE).read_bytes()
    (folder / FILE).write_bytes(content[:-1])


def leave_nothing(folder: Path) -> None:
    (folder / FILE).write_bytes(b"")


def write_index(folder: Path, file_name: str) -> None:
    index = {"metadata": {}, "weight_map": dict.fromkeys(["0.weight", "0.bias"], file_name)}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def lose_file(folder: Path) -> None:
    write_index(folder, FILE)
    (folder / FILE).rename(folder / "other.safetensors")


def leave_folder(folder: Path) -> None:
    write_index(folder, f"../{FILE}")


def garble(folder: Path) -> None:
    (folder / FILE).write_bytes((8).to_bytes(8, "little") + b'{"a": 1}')


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (cut_off, f"{FILE} is not a complete safetensors file: "),
        (leave_nothing, f"{FILE} is not a complete safetensors file: "),
        (lose_file, "No such file"),
        (leave_folder, "which is not in its folder"),
        (garble, f"{FILE} is not a complete safetensors file: "),
    ],
)
def test_weights_that_cannot_be_read_are_refused(damage: Callable[[Path], None], reason: str, tmp_path: Path) -> None:
    """With the path, the problem and the remedy."""
    folder = tmp_path / "exported"
    configure_training(training_config()).export(folder)
    damage(folder)

    with pytest.raises(CheckpointError, match=reason) as caught:
        configure_inference(inference_config(source_checkpoint=folder))
    assert str(caught.value).startswith(f"cannot read the weights in {folder} (")
    assert str(caught.value).endswith("export or download them again")


def test_an_export_into_a_folder_of_something_else_is_refused_at_once(tmp_path: Path) -> None:
    """The folder needs to be new or empty."""
    (tmp_path / "notes.txt").write_text("mine")

    with pytest.raises(
        CheckpointError, match=r"is not empty, and holds no export named 'model': choose a new or empty"
    ):
        configure_training(training_config()).export(tmp_path)
    with pytest.raises(CheckpointError, match=r"notes.txt is a link, or not a directory: choose a new or empty folder"):
        configure_training(training_config()).export(tmp_path / "notes.txt")
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_a_script_that_is_run_again_exports_the_same_weights_again(
    every_step: CheckpointingConfig, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The export that is there is left as it is, also if files were added to it."""
    (tmp_path / "config.json").write_text("{}")
    folder = tmp_path / "exported"
    folder.mkdir()
    trained(every_step).export(folder, config=tmp_path / "config.json")
    (folder / "README.md").write_text("mine")
    written = (folder / FILE).stat().st_mtime_ns  # not all of it: to compare the file changes its time of access

    with caplog.at_level(logging.INFO):
        trained(every_step).export(folder, config=tmp_path / "config.json")

    assert (folder / FILE).stat().st_mtime_ns == written
    assert f"{folder} holds these weights already, bit for bit: nothing is written" in caplog.messages
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoints", "config.json", "exported"]


def test_a_configuration_in_another_order_is_the_same(every_step: CheckpointingConfig, tmp_path: Path) -> None:
    """In each process, peft writes the names of adapted layers, which it keeps as a set, in another order."""
    config = tmp_path / "adapter_config.json"
    config.write_text(json.dumps({"target_modules": ["q_proj", "v_proj"], "r": 8}))
    trained(every_step).export(tmp_path / "exported", config=config)
    config.write_text(json.dumps({"target_modules": ["v_proj", "q_proj"], "r": 8}))

    trained(every_step).export(tmp_path / "exported", config=config)

    config.write_text(json.dumps({"target_modules": ["v_proj", "k_proj"], "r": 8}))
    with pytest.raises(CheckpointError, match=r"adapter_config\.json differs"):
        trained(every_step).export(tmp_path / "exported", config=config)


def change_weight(folder: Path) -> None:
    content = bytearray((folder / FILE).read_bytes())
    content[-1] ^= 1
    (folder / FILE).write_bytes(content)


def change_configuration(folder: Path) -> None:
    (folder / "config.json").write_text('{"layers": 2}')


def truncate_configuration(folder: Path) -> None:
    (folder / "config.json").write_text("{")


def add_shard(folder: Path) -> None:
    (folder / "model-00001-of-00002.safetensors").write_bytes(b"")


@pytest.mark.parametrize(
    ("change", "name"),
    [
        (change_weight, "model.safetensors"),
        (change_configuration, "config.json"),
        (truncate_configuration, "config.json"),
        (add_shard, "model-00001-of-00002.safetensors"),
    ],
)
def test_an_export_replaces_no_other(change: Callable[[Path], None], name: str, tmp_path: Path) -> None:
    """It may be the only copy; the error says what to do."""
    (tmp_path / "config.json").write_text("{}")
    trainer = configure_training(training_config())
    trainer.export(tmp_path / "exported", config=tmp_path / "config.json")
    change(tmp_path / "exported")
    there = {path.name: path.read_bytes() for path in (tmp_path / "exported").iterdir()}

    with pytest.raises(
        CheckpointError,
        match=f"exported holds another export: {name} differs. .*: move or remove the folder and export",
    ):
        trainer.export(tmp_path / "exported", config=tmp_path / "config.json")
    assert {path.name: path.read_bytes() for path in (tmp_path / "exported").iterdir()} == there
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "exported"]


@pytest.mark.parametrize("url", ["s3://bucket/exported", "hf://model", "file:///tmp/exported"])
def test_an_export_to_a_remote_address_is_refused(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`pathlib` would make a local folder named `s3:`."""
    monkeypatch.chdir(tmp_path)
    trainer = configure_training(training_config())

    with pytest.raises(CheckpointError, match=r"cannot export the weights: .* is the address of a remote store, and"):
        trainer.export(Path(url))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("num_bytes", [0, 2000])
def test_a_failed_export_leaves_nothing(num_bytes: int, tmp_path: Path) -> None:
    """On a full disk the error names the folder."""
    trainer = configure_training(training_config())

    with pytest.raises(CheckpointError) as caught, largest_file(num_bytes):
        trainer.export(tmp_path / "exported")

    assert str(caught.value).startswith(f"could not export the weights to {tmp_path / 'exported'} (")
    assert "File too large" in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_dtype_that_safetensors_does_not_have_is_refused(tmp_path: Path) -> None:
    """By the name of the weight."""
    model = Buffers({"weight": torch.zeros(1, dtype=torch.complex128)})

    with pytest.raises(
        CheckpointError, match=r"'weight' has the dtype torch\.complex128, which safetensors files cannot"
    ):
        WeightExporter([model], ALONE).export(tmp_path / "exported")
    assert list(tmp_path.iterdir()) == []
