"""What training and inference have in common."""

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, PositiveInt, model_validator

from d9d.core.configuration import Settings
from d9d.core.dist_context import DeviceMeshParameters
from d9d.loop.config.checkpointing import CheckpointingConfig
from d9d.loop.config.data_loading import DataLoadingConfig
from d9d.loop.config.pipeline import PipelineConfig
from d9d.loop.config.profiling import ProfilingConfig
from d9d.loop.config.reporting import ReportingConfig
from d9d.loop.config.timeouts import TimeoutConfig

Precision = Literal["fp32", "bf16-autocast"]
"""The number format of forward passes: that of the weights, or `torch.autocast` to bfloat16."""


class LoopConfig(Settings):
    """What training and inference have in common."""

    mesh: DeviceMeshParameters = DeviceMeshParameters()
    """How the processes of the job divide the work; by default there is one."""

    pipeline: PipelineConfig = PipelineConfig()
    """How the stages of a model take turns."""

    timeouts: TimeoutConfig = TimeoutConfig()
    """How long processes wait for one another."""

    global_batch_size: PositiveInt
    """How many samples one step takes."""

    micro_batch_size: PositiveInt | None = None
    """How many samples go through the model at once; `None` means all that a process has of a step."""

    device: str | None = None
    """The device to run on, such as `cpu`; `None` takes the accelerator where there is one, and the CPU elsewhere."""

    precision: Precision = "fp32"
    """The number format of forward passes: that of the weights, or `torch.autocast` to bfloat16."""

    seed: int = Field(default=0, ge=0, lt=2**63)
    """Where all random numbers of the job come from: initial weights, dropout, and the order of the data."""

    source_checkpoint: Path | None = None
    """Where the weights come from: one checkpoint of a training run; the folder that holds them, whose newest complete
    one is taken; or exported weights, a file of safetensors or a folder of such. `None` keeps those that the model
    provider made. Training that has a checkpoint of its own goes on from that one, and needs these no more."""

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
        num_parts = self.mesh.data_parallel_size
        divisor = num_parts * (self.micro_batch_size or 1)
        if self.global_batch_size % divisor == 0:
            return self
        parts = "" if num_parts == 1 else f" on {num_parts} data-parallel processes"
        size = (
            "" if self.micro_batch_size is None else f" into micro-batches of micro_batch_size={self.micro_batch_size}"
        )
        lower = self.global_batch_size // divisor * divisor
        nearest = " or ".join(str(number) for number in (lower, lower + divisor) if number)
        raise ValueError(
            f"global_batch_size={self.global_batch_size} cannot be cut{size}{parts}: it must be a multiple of "
            f"{divisor}, such as {nearest}"
        )

    @property
    def samples_per_micro_batch(self) -> int:
        """How many samples go through the model at once."""
        return self.micro_batch_size or self.global_batch_size // self.mesh.data_parallel_size

    @property
    def num_micro_batches(self) -> int:
        """How many micro-batches of a full step each process has."""
        return self.global_batch_size // (self.samples_per_micro_batch * self.mesh.data_parallel_size)
