"""The entry point of a script, under torchrun or alone."""

import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress

from torch import distributed
from torch.distributed.elastic.multiprocessing import errors

from d9d.loop.component import failure
from d9d.loop.component.failure import FailureStore, end_job, start_parent_watchdog
from d9d.loop.component.shutdown import StopRequest

_LAST_REPORT_SECONDS = 5.0


def launch(main: Callable[[], object]) -> None:
    """Run the main function of a script.

    Without `torchrun`, this only calls it. Under `torchrun`, an error on any rank ends the whole job within two
    seconds: its traceback comes before the output of ranks that only lost the connection, and once more at the end of
    torchrun's own output. A rank that hangs is named when the others have waited for it as long as the timeouts allow.
    No process outlives its launcher.

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
    failure.ends_failed_jobs = True
    errors.get_error_handler().initialize()
    try:
        main()
    except SystemExit as stop:
        if stop.code not in (None, 0) and not isinstance(stop, StopRequest):
            end_job(stop)
        # The launcher ends the others as soon as the first rank has left; all have done what was requested.
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        _leave_together()
        raise
    except BaseException as error:  # noqa: BLE001 -- even Ctrl-C, and torch's CheckpointException
        end_job(error)
    _leave_together()


def _leave_together() -> None:
    """Wait a moment for the other ranks to end too: the end of a process closes connections that they may still use."""
    with suppress(Exception):  # ranks that have failed report that themselves
        store = FailureStore.connect()
        if store is None:
            return
        store.report()
        deadline = time.monotonic() + _LAST_REPORT_SECONDS
        while time.monotonic() < deadline:
            if store.all_reported:
                if distributed.is_initialized():
                    distributed.destroy_process_group()
                return
            time.sleep(0.01)
