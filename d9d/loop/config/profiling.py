"""Which steps are recorded for profiling."""

from pathlib import Path

from pydantic import NonNegativeInt, PositiveInt

from d9d.core.configuration import Settings


class ProfilingConfig(Settings):
    """Which steps are recorded by `torch.profiler`, counted from the first one that a process runs."""

    folder: Path
    """Where each rank writes one trace for each cycle, for Perfetto and TensorBoard."""

    wait_steps: NonNegativeInt = 5
    """How many steps each cycle lets pass."""

    warmup_steps: PositiveInt = 1
    """How many steps are then recorded and thrown away, since the first ones under the profiler are slower."""

    active_steps: PositiveInt = 3
    """How many steps are then recorded and kept."""

    num_cycles: PositiveInt = 1
    """How many cycles there are; after the last one, nothing is recorded."""

    with_stack: bool = False
    """Whether to record which lines of code call each operator, which slows the recorded steps down."""
