"""How a script starts, so that its end is told truly."""

import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress

from torch import distributed
from torch.distributed.elastic.multiprocessing import errors

from d9d.loop.component.failure import FailureStore, end_job, start_parent_watchdog
from d9d.loop.component.shutdown import Shutdown, StopRequest

_FAREWELL_SECONDS = 5.0


def launch(main: Callable[[], object]) -> None:
    """Run the main function of a script.

    A process that `torchrun` has not started just calls it. Otherwise, what is raised on any rank ends the whole job
    within two seconds, with its traceback above all that other ranks say, and once more at the end of torchrun's own
    output; a rank that hangs is named when the others have waited for it as long as the timeouts allow; and no process
    outlives its launcher.

    Example:
        ```python
        if __name__ == "__main__":
            launch(main)
        ```

    Args:
        main: A function without arguments, such as one that configures a loop and runs it.
    """
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        main()
        return

    start_parent_watchdog()
    Shutdown.ends_failed_jobs = True
    errors.get_error_handler().initialize()
    try:
        main()
    except SystemExit as stop:
        if stop.code not in (None, 0) and not isinstance(stop, StopRequest):
            end_job(stop)
        # The launcher ends the others as soon as the first has left, and all have done what was asked for.
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        _leave_together()
        raise
    except BaseException as error:  # noqa: BLE001 -- even Ctrl-C, and torch's CheckpointException
        end_job(error)
    _leave_together()


def _leave_together() -> None:
    """Wait a moment for ranks that still speak: the end of a process closes its connections."""
    with suppress(Exception):  # they may have failed, and say so themselves
        words = FailureStore.of_job()
        if words is None:
            return
        words.report()
        deadline = time.monotonic() + _FAREWELL_SECONDS
        while time.monotonic() < deadline:
            if words.all_reported:
                if distributed.is_initialized():
                    distributed.destroy_process_group()
                return
            time.sleep(0.01)
