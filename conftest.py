"""What all tests expect of the process that runs them."""

import signal


def pytest_configure() -> None:
    """Undo what `nohup` and a shell that runs a command in the background do: they ignore some signals.

    Child processes inherit that, and a run leaves an ignored signal alone, so tests of these signals would fail.
    """
    for number, default in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, default)
