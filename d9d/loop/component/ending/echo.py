"""Which errors only say that another rank went away, or did not come."""

import re

from torch import distributed

# What gloo and NCCL say; gloo's errors are plain RuntimeErrors.
_ECHO = re.compile(
    r"gloo/transport/|Gloo connect|Application timeout caused pair closure|monitoredBarrier"
    r"|remote process exited|network error|communicator was aborted|[Ww]atchdog"
)
_FROM_THE_STORE = (distributed.DistNetworkError, distributed.DistStoreError)


def is_echo(error: BaseException) -> bool:
    """Say whether an error is no cause, and merely tells that another rank failed or hangs.

    Args:
        error: The error; where it came of another one, that one decides.

    Returns:
        Whether it is an echo.
    """
    root, seen = error, {error}
    while (earlier := root.__cause__ or root.__context__) is not None and earlier not in seen:
        root = earlier
        seen.add(root)
    return isinstance(root, _FROM_THE_STORE) or _ECHO.search(str(root)) is not None
