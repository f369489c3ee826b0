"""Checkpoints of several ranks: shared state, per-rank state, and failures on one rank."""

import json
import logging
import os
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from ranks import run_on_ranks
from sharded_job import SHARDINGS, Job, Sharding
from torch import distributed, nn
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from d9d.loop.component.checkpoint.job_state import Distribution, JobState, Part
from d9d.loop.component.checkpoint.sharded_state import ModelState
from d9d.loop.component.checkpoint.storage import Checkpoint
from d9d.loop.component.ranks import Ranks
from d9d.loop.config import CheckpointingConfig

FSDP = SHARDINGS["fsdp"]
REPLICATED = SHARDINGS["replicated"]
PIPELINE = SHARDINGS["pipeline"]
ALONE = SHARDINGS["alone"]


def rank() -> int:
    return distributed.get_rank()


class Holder:
    """Has a state that tests choose."""

    def __init__(self, state: dict[str, Any]) -> None:
        self.state = state

    def state_dict(self) -> dict[str, Any]:
        return self.state

    def load_state_dict(self, state_dict: dict[str, Any], /) -> None:
        self.state = state_dict


class Failing(Holder):
    """Cannot return its state on one rank."""

    def state_dict(self) -> dict[str, Any]:
        if rank() == 1 and self.state["fails"]:
            raise LookupError("the task has lost something")
        return {}


class Lines(logging.Handler):
    """Collects log lines."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.lines: list[str] = []
        logging.getLogger("d9d").addHandler(self)
        logging.getLogger("d9d").setLevel(logging.INFO)

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


def raised_by(work: Callable[[], Any]) -> str:
    """Return the error that a function raises, as text."""
    try:
        work()
    except Exception as error:  # noqa: BLE001 -- whatever it is
        return f"{type(error).__qualname__}: {error}"
    return "nothing"


def save_task(sharding: Sharding, folder: Path, states: list[dict[str, Any]]) -> None:
    job = Job(sharding, folder, task=Holder(states[rank()]))
    job.step()
    job.checkpointer.save()


def load_task(sharding: Sharding, folder: Path) -> tuple[dict[str, Any], list[str]]:
    lines = Lines()
    task = Holder({"is": "fresh"})
    job = Job(sharding, folder, task=task)
    job.checkpointer.resume()
    return task.state, lines.lines


def test_replicated_state_of_a_task_loads_on_any_number_of_ranks(tmp_path: Path) -> None:
    """Replicated state that two ranks saved loads on one."""
    run_on_ranks(2, save_task, FSDP, tmp_path, [{"seen": 3, "sum": torch.ones(2)}] * 2)

    ((state, _),) = run_on_ranks(1, load_task, ALONE, tmp_path)

    assert state["seen"] == 3
    assert torch.equal(state["sum"], torch.ones(2))


def test_state_of_a_task_that_differs_is_saved_per_rank(tmp_path: Path) -> None:
    """On the same number of ranks each loads its own state, including NaN and tensors."""
    states = [{"loss": float("nan"), "sum": torch.zeros(2)}, {"loss": float("nan"), "sum": torch.ones(2)}]
    run_on_ranks(2, save_task, FSDP, tmp_path, states)

    (first, _), (second, _) = run_on_ranks(2, load_task, FSDP, tmp_path)

    assert torch.equal(first["sum"], torch.zeros(2))
    assert torch.equal(second["sum"], torch.ones(2))


def test_per_rank_state_starts_fresh_on_another_number_of_ranks(tmp_path: Path) -> None:
    """A warning is logged for each per-rank state that starts fresh."""
    run_on_ranks(2, save_task, FSDP, tmp_path, [{"seen": 1}, {"seen": 2}])

    ((state, lines),) = run_on_ranks(1, load_task, ALONE, tmp_path)

    assert state == {"is": "fresh"}
    assert lines[:2] == [
        f"{name!r} was saved per rank by 2 ranks and this job has 1: starting it fresh" for name in ("task", "random")
    ]


def average_weights(sharding: Sharding, folder: Path) -> torch.Tensor:
    """Keep an average of a weight in the task, sharded like the weight; return the full average."""
    job = Job(sharding, folder)
    weight = job.stages[0].state_dict()["layers.0.up.weight"]
    task = Holder({"average": weight * 0 if list(folder.iterdir()) else weight * 0.5})
    job = Job(sharding, folder, task=task)
    job.checkpointer.resume()
    job.step()
    job.checkpointer.save()
    average: Any = task.state["average"]
    assert type(average) is type(weight.detach())
    return average.full_tensor() if isinstance(average, DTensor) else average


def test_sharded_state_of_a_task_is_resharded(tmp_path: Path) -> None:
    """An average of a weight moves to other shards, and to one process."""
    first, _ = run_on_ranks(2, average_weights, FSDP, tmp_path)
    second, _ = run_on_ranks(2, average_weights, SHARDINGS["tensor"], tmp_path)
    (third,) = run_on_ranks(1, average_weights, ALONE, tmp_path)

    assert first.any()
    assert torch.equal(first, second)
    assert torch.equal(first, third)


def names_within_ddp() -> tuple[list[str], list[str]]:
    bare = nn.Linear(2, 1)
    state = ModelState([DistributedDataParallel(bare)])
    state.load_state_dict(state.state_dict())
    return list(state.state_dict()), list(state.parameter_names().values())


def test_a_ddp_model_has_the_names_of_the_bare_model() -> None:
    """State dict names do not contain the DDP wrapper."""
    assert run_on_ranks(2, names_within_ddp) == [(["weight", "bias"], ["weight", "bias"])] * 2


def infer(folder: Path, num_ranks: int) -> str:
    """Save the outputs of some ranks, or load them."""
    ranks = Ranks(rank(), num_ranks)
    state = JobState({"task": Part(Holder({"outputs": [rank()]}), Distribution.REQUIRED_PER_RANK)}, ranks)
    if not Checkpoint.list_in(folder):
        Checkpoint.write(folder, 1, state.state_dict(), {}, ranks=ranks)
        return ""
    return raised_by(lambda: state.load(Checkpoint(folder / "step-1").open(ranks)))


def test_inference_does_not_resume_on_another_number_of_ranks(tmp_path: Path) -> None:
    """The error has both numbers of ranks; resuming would lose outputs."""
    (tmp_path / "outputs").mkdir()
    run_on_ranks(2, infer, tmp_path / "outputs", 2)

    assert run_on_ranks(2, infer, tmp_path / "outputs", 2) == ["nothing", "nothing"]
    (error,) = run_on_ranks(1, infer, tmp_path / "outputs", 1)
    assert error == (
        "CheckpointError: 'task' was saved per rank by 2 ranks and this job has 1: resume with 2 ranks, or start fresh "
        "in another folder"
    )


def draw(folder: Path) -> tuple[list[float], list[float]]:
    """Return random numbers drawn after a save, and after resuming from it."""
    job = Job(FSDP, folder)
    torch.manual_seed(rank())
    job.step()
    job.checkpointer.save()
    expected = torch.rand(3).tolist()
    again = Job(FSDP, folder)
    again.checkpointer.resume()
    return expected, torch.rand(3).tolist()


def test_each_rank_resumes_its_own_random_numbers(tmp_path: Path) -> None:
    """After a resume each rank draws its own next random numbers."""
    first, second = run_on_ranks(2, draw, tmp_path)

    assert first[0] == first[1]
    assert second[0] == second[1]
    assert first[0] != second[0]


def disagree_in_steps(folder: Path) -> str:
    job = Job(FSDP, folder)
    for _ in range(1 + rank()):
        job.stepper.advance()
    return raised_by(job.checkpointer.save)


def test_shared_state_that_differs_between_ranks_is_refused(tmp_path: Path) -> None:
    """All ranks raise an error with the path and both values."""
    first, second = run_on_ranks(2, disagree_in_steps, tmp_path)

    assert first == second
    assert first == (
        "StateError: 'stepper/current_step' is 1 on one rank and 2 on another: state that ranks share must be the same "
        "on all of them"
    )
    assert list(tmp_path.iterdir()) == []


def disagree_in_weights(folder: Path) -> str:
    job = Job(REPLICATED, folder)
    job.step()
    if rank() == 1:
        with torch.no_grad():
            next(job.stages[0].parameters())[0, 0] += 1
    return raised_by(job.checkpointer.save)


def test_replicated_weights_that_differ_are_refused(tmp_path: Path) -> None:
    """Replicas with different weights, as after unsynchronised gradients, are refused."""
    first, second = run_on_ranks(2, disagree_in_weights, tmp_path)

    assert first == second
    assert first == (
        "StateError: the tensor 'model/layers.0.up.weight' differs between rank 0 and rank 1, and a checkpoint holds "
        "one value for it: make it the same on all ranks, or give it a different name on each"
    )


def disagree_in_buffers(folder: Path) -> tuple[int, list[str]]:
    lines = Lines()
    job = Job(REPLICATED, folder)
    job.stages[0].get_submodule("layers.0").register_buffer("num_calls", torch.tensor(10 + rank()))
    job.step()
    job.checkpointer.save()
    job.checkpointer.resume()
    return int(job.stages[0].state_dict()["layers.0.num_calls"]), lines.lines


def test_of_buffers_that_differ_those_of_rank_zero_are_saved(tmp_path: Path) -> None:
    """With a warning: batch statistics differ where each rank has its own samples."""
    (first, lines), (second, _) = run_on_ranks(2, disagree_in_buffers, tmp_path)

    assert first == second == 10
    assert lines[0] == "model/layers.0.num_calls differs between ranks 0 and 1: saving that of rank 0"


def fill_disk(folder: Path, full_on: int, num_bytes: int) -> str:
    job = Job(FSDP, folder)
    job.step()
    job.checkpointer.save()
    job.step()
    if rank() == full_on:
        resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, resource.RLIM_INFINITY))
    error = raised_by(job.checkpointer.save)
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    return error


@pytest.mark.parametrize(("full_on", "num_bytes"), [(0, 0), (0, 8000), (1, 0), (1, 2000)])
def test_a_full_disk_on_one_rank_is_raised_on_all_ranks(full_on: int, num_bytes: int, tmp_path: Path) -> None:
    """All ranks raise the same message, and the previous checkpoint is intact."""
    first, second = run_on_ranks(2, fill_disk, tmp_path, full_on, num_bytes)

    assert first == second
    assert first.startswith(f"CheckpointError: could not write checkpoint step-2 to {tmp_path} (")
    assert "File too large" in first
    assert [path.name for path in tmp_path.iterdir()] == ["step-1"]
    assert Checkpoint(tmp_path / "step-1").problem() is None


def fail_in_save(folder: Path) -> str:
    task = Failing({"fails": False})
    job = Job(FSDP, folder, task=task)
    job.step()
    task.state["fails"] = True
    return raised_by(job.checkpointer.save)


def test_an_error_of_a_part_on_one_rank_is_raised_on_all_ranks(tmp_path: Path) -> None:
    """If the state of one rank cannot be saved, all ranks raise instead of waiting."""
    assert run_on_ranks(2, fail_in_save, tmp_path) == ["LookupError: the task has lost something"] * 2


def resume(sharding: Sharding, folder: Path, names: dict[str, str]) -> str:
    job = Job(sharding, folder)
    job.checkpointer._settings = {**job.checkpointer._settings, **names}
    return raised_by(job.checkpointer.resume)


def test_another_model_is_refused_on_all_ranks(tmp_path: Path) -> None:
    """All ranks raise an error with the shape of the full weight, not of a shard."""
    run_on_ranks(2, save_task, FSDP, tmp_path, [{}, {}])

    errors = run_on_ranks(2, resume, PIPELINE, tmp_path, {"model/layers.0.up.weight": "float32[9, 9]"})

    assert errors[0] == errors[1]
    assert "model/layers.0.up.weight is 'float32[9, 9]' here and 'float32[3, 5]' in the checkpoint" in errors[0]


def test_the_mesh_is_in_the_manifest_and_may_change(tmp_path: Path) -> None:
    """The manifest has the mesh and the number of ranks, and a job on another mesh resumes."""
    run_on_ranks(2, save_task, FSDP, tmp_path, [{}, {}])
    manifest = json.loads((tmp_path / "step-1" / "checkpoint.json").read_text())

    assert manifest["num_ranks"] == 2
    assert manifest["mesh"] == FSDP.mesh
    assert run_on_ranks(2, resume, PIPELINE, tmp_path, {}) == ["nothing", "nothing"]


def choose(folder: Path) -> str:
    """Resume with a folder that only rank 0 sees as it is."""
    job = Job(FSDP, folder)
    if rank() == 1:
        job.checkpointer._config = CheckpointingConfig(folder=folder / "not there yet")
    job.checkpointer.resume()
    return f"{job.stepper.current_step}"


def test_rank_zero_chooses_the_checkpoint_for_all_ranks(tmp_path: Path) -> None:
    """A shared file system may show an older state of the folder to others."""
    run_on_ranks(2, save_task, FSDP, tmp_path, [{}, {}])

    assert run_on_ranks(2, choose, tmp_path) == ["1", "1"]


def save_to_own_disk(sharding: Sharding, home: Path) -> tuple[str, list[str]]:
    """Save into a folder that each rank has for itself; return the error, and the checkpoints that are left."""
    folder = home / f"disk-{rank()}" / "checkpoints"
    folder.mkdir(parents=True)
    os.chdir(folder.parent)
    job = Job(sharding, Path("checkpoints"))
    job.step()
    return raised_by(job.checkpointer.save), [path.name for path in folder.glob("step-*")]


def test_ranks_without_a_shared_folder_are_reported(tmp_path: Path) -> None:
    """The first save raises an error and leaves nothing that looks like a checkpoint."""
    (first, first_left), (second, second_left) = run_on_ranks(2, save_to_own_disk, FSDP, tmp_path)

    assert first == second
    assert "rank 0 sees this folder and rank 1 does not: all ranks need a shared folder" in first
    assert first_left == second_left == []
