"""Where and how often the state of a job is saved."""

from pathlib import Path

from pydantic import PositiveInt

from d9d.core.configuration import Settings


class CheckpointingConfig(Settings):
    """Where and how often the state of a job is saved; running the same job again resumes from there."""

    folder: Path
    """The folder that holds this job's checkpoints, and nothing else."""

    period_steps: PositiveInt = 1000
    """How often to save, in steps; the last step is always saved."""

    num_to_keep: PositiveInt = 3
    """How many of the newest checkpoints to keep."""
