"""What a process does when its launcher is gone."""

import os
import signal
import threading
import time

from d9d.loop.component.ending.job_end import kill_children

_POLL_SECONDS = 0.5


def end_with_launcher() -> None:
    """Have this process end soon after the one that started it, however that one ended.

    Nobody else would end it, and it would write beside the job that takes its place.
    """
    threading.Thread(target=_watch, args=(os.getppid(),), name="d9d-launcher", daemon=True).start()


def _watch(launcher: int) -> None:
    while os.getppid() == launcher:
        time.sleep(_POLL_SECONDS)
    kill_children()
    os.kill(os.getpid(), signal.SIGKILL)
