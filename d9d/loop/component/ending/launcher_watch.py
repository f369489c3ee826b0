"""What a process does when its launcher is gone."""

import os
import signal
import socket
import threading
import time

from d9d.loop.component.ending.job_end import kill_children

_POLL_SECONDS = 0.5
_ANSWER_SECONDS = 5.0


def end_with_launcher() -> None:
    """Have this process end soon after the one that started it, however that one ended.

    Nobody else would end it, and it would write beside the job that takes its place.

    Raises:
        SystemExit: If the launcher is gone already.
    """
    launcher = os.getppid()
    # While torch was imported the launcher may have ended, and what is the parent now would never end.
    if not _store_answers():
        raise SystemExit("the launcher is gone: its store does not answer; start the job again")
    threading.Thread(target=_watch, args=(launcher,), name="d9d-launcher", daemon=True).start()


def _store_answers() -> bool:
    """Say whether the store is there that torchrun keeps for its processes from before they are started."""
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return True
    try:
        address = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        socket.create_connection(address, timeout=_ANSWER_SECONDS).close()
    except ConnectionRefusedError:
        return False
    except OSError:  # a slow network, perhaps: joining the others will tell
        return True
    return True


def _watch(launcher: int) -> None:
    while os.getppid() == launcher:
        time.sleep(_POLL_SECONDS)
    kill_children()
    os.kill(os.getpid(), signal.SIGKILL)
