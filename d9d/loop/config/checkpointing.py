"""Where and how often the state of a job is saved."""

from pathlib import Path

from pydantic import PositiveFloat, PositiveInt

from d9d.core.configuration import Settings


class CheckpointingConfig(Settings):
    """Where and how often the state of a job is saved; running the same job again resumes from there."""

    folder: Path
    """The folder that holds this job's checkpoints, and nothing else."""

    period_steps: PositiveInt | None = 1000
    """How often to save, in steps; `None` goes by minutes alone. The last step is always saved."""

    period_minutes: PositiveFloat | None = None
    """The longest time between two saves, in minutes by the clock of the main process; several processes save up to
    six steps later. `None` goes by steps alone."""

    num_to_keep: PositiveInt = 3
    """How many of the newest checkpoints to keep."""

    asynchronous: bool = False
    """Whether the loop goes on while a checkpoint is written. It then holds a copy of the state in the memory of the
    host, and a save that fails is raised at the next one, or at the end of the loop. By default the loop waits until a
    checkpoint is on disk."""
