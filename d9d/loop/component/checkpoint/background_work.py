"""Work beside the loop, one piece after the other."""

import contextlib
import os
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

import torch

_NICENESS = 10


class BackgroundWork:
    """Does one piece of work at a time in a thread of its own, which outlives a loop that fails until it is done."""

    def __init__(self) -> None:
        self._thread: ThreadPoolExecutor | None = None
        self._running: Future[None] | None = None

    @property
    def is_running(self) -> bool:
        """Whether a piece of work is not done yet."""
        return self._running is not None and not self._running.done()

    def start(self, work: Callable[[], None]) -> None:
        """Begin a piece of work, after `wait` has returned for the one before.

        Args:
            work: Speaks to other processes only through a group that nothing else uses.
        """
        if self._thread is None:
            self._thread = ThreadPoolExecutor(
                max_workers=1, thread_name_prefix="d9d-background", initializer=_begin, initargs=(_device(),)
            )
        self._running = self._thread.submit(work)

    def wait(self) -> None:
        """Wait for the piece of work that was begun, if there is one whose end nobody has waited for.

        Raises:
            BaseException: What it raised.
        """
        running, self._running = self._running, None
        if running is not None:
            running.result()


def _device() -> int | None:
    return torch.accelerator.current_device_index() if torch.accelerator.is_available() else None


def _begin(device: int | None) -> None:
    """Have this thread use the device of the loop, and what time of the processors the loop leaves."""
    if device is not None:  # or it would be the first one, on every process of the machine
        torch.accelerator.set_device_index(device)
    if sys.platform == "linux":  # which alone has priorities of threads
        with contextlib.suppress(OSError):  # some sandboxes forbid it, and it is a courtesy
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICENESS)
