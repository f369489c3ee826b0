"""How a loop is configured: every setting, its meaning and its unit."""

import difflib
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

Precision = Literal["fp32", "bf16-autocast"]
"""The number format of forward passes: that of the weights, or `torch.autocast` to bfloat16."""


class ConfigurationError(ValueError):
    """Settings that cannot work together, or not with the data, found before the model is built."""


class _Config(BaseModel):
    """What all configurations have in common: they are checked whole, do not change, and know their fields."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    @model_validator(mode="before")
    @classmethod
    def _suggest_known_fields(cls, values: Any) -> Any:
        for name in values if isinstance(values, dict) else ():
            close = difflib.get_close_matches(str(name), cls.model_fields, n=1)
            if name not in cls.model_fields and close:
                raise ValueError(f"{cls.__name__} has no field {name!r}; did you mean {close[0]!r}?")
        return values


class DataLoadingConfig(_Config):
    """How samples come from the dataset to the device."""

    num_workers: NonNegativeInt = 0
    """How many processes read samples ahead; with 0 the loop reads them itself, when it needs them. What samples draw
    at random is the same for any number of processes, and something else with none. Iterable data comes in another
    order with another number."""


class CheckpointingConfig(_Config):
    """Where and how often the state of a job is saved; running the same job again resumes from there."""

    folder: Path
    """The folder that holds this job's checkpoints, and nothing else."""

    period_steps: PositiveInt = 1000
    """How often to save, in steps; the last step is always saved."""

    num_to_keep: PositiveInt = 3
    """How many of the newest checkpoints to keep."""


class ReportingConfig(_Config):
    """What people see of a running loop."""

    progress_bar: bool | None = None
    """Whether to draw a progress bar; `None` draws one where there is a terminal, and logs lines elsewhere."""

    period_steps: PositiveInt | None = 10
    """How often to report numbers, in steps. Each report waits for the device once; `None` never does."""


class ProfilingConfig(_Config):
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


class LoopConfig(_Config):
    """What training and inference have in common."""

    global_batch_size: PositiveInt
    """How many samples one step takes."""

    micro_batch_size: PositiveInt | None = None
    """How many samples go through the model at once; `None` means all of the step's."""

    device: str | None = None
    """The device to run on, such as `cpu`; `None` takes the accelerator where there is one, and the CPU elsewhere."""

    precision: Precision = "fp32"
    """The number format of forward passes: that of the weights, or `torch.autocast` to bfloat16."""

    seed: int = Field(default=0, ge=0, lt=2**63)
    """Where all random numbers of the job come from: initial weights, dropout, and the order of the data."""

    data_loading: DataLoadingConfig = DataLoadingConfig()
    """How samples come from the dataset to the device."""

    checkpointing: CheckpointingConfig | None = None
    """Where and how often the state of the job is saved; `None` saves nothing."""

    reporting: ReportingConfig = ReportingConfig()
    """What people see of the running loop."""

    garbage_collection_period_steps: PositiveInt | None = 100
    """How often Python's garbage is collected, in steps, at the same steps on all ranks, in place of automatic
    collection; `None` leaves that alone. Lower it if objects that refer to each other hold much memory."""

    profiling: ProfilingConfig | None = None
    """Which steps are recorded for profiling; `None` records nothing."""

    @model_validator(mode="after")
    def _batches_divide(self) -> Self:
        if self.global_batch_size % self.samples_per_micro_batch:
            raise ValueError(
                f"global_batch_size={self.global_batch_size} cannot be cut into micro-batches of "
                f"micro_batch_size={self.micro_batch_size}: make the first a multiple of the second"
            )
        return self

    @property
    def samples_per_micro_batch(self) -> int:
        """How many samples go through the model at once."""
        return self.micro_batch_size or self.global_batch_size

    @property
    def num_micro_batches(self) -> int:
        """How many micro-batches a full step has."""
        return self.global_batch_size // self.samples_per_micro_batch


class TrainingConfig(LoopConfig):
    """Everything about a training run that is a number, a name or a path."""

    total_steps: PositiveInt
    """How many optimizer steps the run has."""

    max_gradient_norm: PositiveFloat | None = 1.0
    """The L2 norm, over all parameters, to which larger gradients are scaled down. `None` leaves them as they are, as
    sparse gradients need."""


class InferenceConfig(LoopConfig):
    """Everything about an inference run that is a number, a name or a path."""

    source_checkpoint: Path | None = None
    """Where the weights come from: one checkpoint of a training run, or the folder that holds them, whose newest
    complete one is taken. `None` keeps the weights that the model provider made."""
