"""How long processes wait for one another."""

from pydantic import PositiveFloat

from d9d.core.configuration import Settings


class TimeoutConfig(Settings):
    """How long processes wait for one another before they give up."""

    start_seconds: PositiveFloat = 1800.0
    """From the start until the first step is complete: others may still read data, compile or load weights."""

    step_seconds: PositiveFloat = 600.0
    """In each operation of all later steps."""
