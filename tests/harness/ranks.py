"""Runs a function in several local processes that share a gloo process group."""

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import distributed
from torch.distributed import FileStore  # type: ignore[attr-defined] # torch exports it in effect
from torch.multiprocessing.spawn import start_processes

TResult = TypeVar("TResult")

# The fork server imports these once, because the import takes seconds.
_PRELOADED = ["torch", "torch.distributed.fsdp", "torch.distributed.pipelining", "torch._dynamo", "d9d.loop.run"]


def run_on_ranks(num_ranks: int, work: Callable[..., TResult], *arguments: Any) -> list[TResult]:
    """Call a function in several processes that share a process group.

    Args:
        num_ranks: The number of processes.
        work: A function at module level. It gets its rank from `torch.distributed`.
        *arguments: The arguments of the function, which must be picklable.

    Returns:
        The return value of each rank.

    Raises:
        ProcessRaisedException: If any of them raised, with its traceback.
    """
    torch.multiprocessing.get_context("forkserver").set_forkserver_preload(_PRELOADED)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        start_processes(  # type: ignore[no-untyped-call]
            _join, (num_ranks, folder, work, arguments), nprocs=num_ranks, start_method="forkserver"
        )
        return [torch.load(folder / f"result-{rank}", weights_only=False) for rank in range(num_ranks)]


def _join(rank: int, num_ranks: int, folder: Path, work: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    # As torchrun sets them.
    os.environ.update({"LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": str(num_ranks)})
    store = FileStore(str(folder / "store"), num_ranks)
    distributed.init_process_group("gloo", store=store, rank=rank, world_size=num_ranks)
    torch.save(work(*arguments), folder / f"result-{rank}")
    # If one process exited earlier, it would close connections that others still use.
    store.set(f"done-{rank}", "")
    store.wait([f"done-{other}" for other in range(num_ranks)])
