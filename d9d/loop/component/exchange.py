"""The exchange: what the ranks of a job agree on once per step, without waiting for each other."""

import sys
import threading
import traceback
from collections.abc import Sequence
from types import TracebackType
from typing import NamedTuple, Self

import torch
from torch import distributed
from torch.distributed import Work

from d9d.loop.component import failure
from d9d.loop.component.ranks import Ranks

_WATCH_SECONDS = 1.0


class Flags(NamedTuple):
    """What a rank announces between two steps, or what the ranks have agreed on: a flag is set if any rank has set it.

    Attributes:
        signal: The number of the stop signal that was received, or 0.
        stop: Whether a handler asks the loop to end.
        save: Whether a handler asks for a checkpoint.
        is_time_to_save: Whether the minutes between two checkpoints have passed.
        is_saving: Whether an asynchronous save is not on disk yet.
        is_reporting: Whether the numbers of a report have not reached the host yet.
        evaluations: The names of the evaluations that handlers ask for.
    """

    signal: int = 0
    stop: bool = False
    save: bool = False
    is_time_to_save: bool = False
    is_saving: bool = False
    is_reporting: bool = False
    evaluations: frozenset[str] = frozenset()

    def __or__(self, other: "Flags") -> "Flags":
        """Return the flags that are set in one of two."""
        return Flags(
            signal=max(self.signal, other.signal),
            stop=self.stop or other.stop,
            save=self.save or other.save,
            is_time_to_save=self.is_time_to_save or other.is_time_to_save,
            is_saving=self.is_saving or other.is_saving,
            is_reporting=self.is_reporting or other.is_reporting,
            evaluations=self.evaluations | other.evaluations,
        )


class Exchange:
    """Combines the flags of all ranks, one step later than they are announced.

    `begin` starts an asynchronous reduction on the host, and `read` takes its result at the next step boundary, when it
    has long been complete. A process without others takes its own flags one step later too, so that a handler sees the
    same order of events on any number of ranks.

    While it is entered as a context, a thread watches the reduction. If it fails because a rank hangs, and the main
    thread of this one waits elsewhere, for a device that waits for the same rank, the thread ends the job and names the
    rank. Otherwise the watchdog of NCCL would end the process and name none.

    Args:
        ranks: The ranks of the job, with a process group that nothing else uses: user code may start collective
            operations on one rank at any time.
        evaluations: The names of the evaluations of the loop, the same on all ranks.
    """

    def __init__(self, ranks: Ranks, evaluations: Sequence[str] = ()) -> None:
        self.ranks = ranks
        self._is_alone = ranks.is_alone
        self._evaluations = tuple(evaluations)
        self._begun: Flags | None = None
        self._reduction: tuple[torch.Tensor, Work] | None = None
        self._is_over = threading.Event()

    def __enter__(self) -> Self:
        """Start to watch, if this process is in a job that `launch` started."""
        if not self._is_alone and failure.ends_failed_jobs:
            self._is_over.clear()
            threading.Thread(target=self._watch, name="d9d-exchange", daemon=True).start()
        return self

    def __exit__(
        self, error_type: type[BaseException] | None, error: BaseException | None, frames: TracebackType | None
    ) -> None:
        """Stop to watch."""
        self._is_over.set()

    def _watch(self) -> None:
        while not self._is_over.wait(_WATCH_SECONDS):
            reduction = self._reduction
            if reduction is None or not reduction[1].is_completed():
                continue
            try:
                reduction[1].wait()
            except RuntimeError as error:
                if self._is_over.wait(_WATCH_SECONDS):  # the main thread reads, and has raised the same error
                    return
                frames = sys._current_frames()  # noqa: SLF001 -- the documented way
                stack = "".join(traceback.format_stack(frames[threading.main_thread().ident or 0]))
                error.add_note(f"meanwhile the main thread of this rank was here:\n{stack}".rstrip())
                failure.end_job(error)

    def begin(self, flags: Flags) -> None:
        """Announce the flags of this rank.

        Args:
            flags: The flags.
        """
        if self._is_alone:
            self._begun = flags
            return
        *numbers, evaluations = flags
        vector = torch.tensor([*numbers, *(name in evaluations for name in self._evaluations)], dtype=torch.int32)
        work = distributed.all_reduce(vector, distributed.ReduceOp.MAX, self.ranks.group, async_op=True)
        self._reduction = vector, work

    def read(self) -> Flags:
        """Return what the ranks have agreed on since `begin` was last called; no flags if there is nothing to read."""
        if self._is_alone:
            begun, self._begun = self._begun, None
            return NO_FLAGS if begun is None else begun
        reduction, self._reduction = self._reduction, None
        if reduction is None:
            return NO_FLAGS
        vector, work = reduction
        work.wait()
        return self._unpack(vector)

    def _unpack(self, vector: torch.Tensor) -> Flags:
        # The vector is on the host, so no device is waited for.
        signal, stop, save, is_time_to_save, is_saving, is_reporting, *evaluations = vector.tolist()
        return Flags(
            signal=signal,
            stop=bool(stop),
            save=bool(save),
            is_time_to_save=bool(is_time_to_save),
            is_saving=bool(is_saving),
            is_reporting=bool(is_reporting),
            evaluations=frozenset(name for name, flag in zip(self._evaluations, evaluations, strict=True) if flag),
        )


NO_FLAGS = Flags()
