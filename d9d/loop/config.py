"""The configuration of a loop: every setting, its meaning and its unit."""

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from d9d.core.dist_context import DeviceMeshParameters
from d9d.core.pipeline import SCHEDULES, ScheduleName, StagePosition
from d9d.core.settings import ConfigurationError, Settings

__all__ = [
    "CheckpointingConfig",
    "ConfigurationError",
    "DataLoadingConfig",
    "DeviceMeshParameters",
    "InferenceConfig",
    "LoopConfig",
    "PipelineConfig",
    "Precision",
    "ProfilingConfig",
    "ReportingConfig",
    "TimeoutConfig",
    "TrainingConfig",
]


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


class DataLoadingConfig(Settings):
    """How samples come from the dataset to the device."""

    num_workers: NonNegativeInt = 0
    """How many processes read samples ahead; with 0 the loop reads them itself, when it needs them. What samples draw
    at random is the same for any number of processes, and something else with none. Iterable data comes in another
    order with another number."""


class PipelineConfig(Settings):
    """How the stages of a model take turns; of no effect while `mesh.pipeline_parallel` is 1."""

    schedule: ScheduleName = "1f1b"
    """The order of forward and backward passes. `gpipe` and `1f1b` have one stage a process, `zbv` and `dualpipev`
    have two, and the others `num_stages_per_process`."""

    num_stages_per_process: PositiveInt | None = None
    """How many stages each process holds; `None` takes two where the schedule leaves a choice."""

    activation_dtype: Literal["fp32", "bf16"] | None = None
    """The number format in which activations and their gradients travel between stages; `None` keeps that of the
    weights as the model provider makes them."""

    @model_validator(mode="after")
    def _stages_suit_schedule(self) -> Self:
        fixed, asked = SCHEDULES[self.schedule].num_stages_per_process, self.num_stages_per_process
        if fixed is not None and asked not in (None, fixed):
            raise ValueError(
                f"schedule={self.schedule!r} has {fixed} stage{'s' * (fixed > 1)} a process, and "
                f"num_stages_per_process is {asked}: leave it out, or choose another schedule"
            )
        if fixed is None and asked == 1:
            raise ValueError(
                f"schedule={self.schedule!r} has several stages a process, and num_stages_per_process is 1: set it to "
                "2 or more, or choose '1f1b'"
            )
        return self

    def stages_of(self, process: int, num_processes: int) -> list[StagePosition]:
        """Return the stages that a process holds.

        Args:
            process: Its place in the pipeline, from 0.
            num_processes: How many processes the pipeline has; one alone holds the whole model.

        Returns:
            The stages, in the order of the pipeline.
        """
        if num_processes == 1:
            return [StagePosition()]
        traits = SCHEDULES[self.schedule]
        return traits.stages_of(
            process=process,
            num_processes=num_processes,
            num_stages_per_process=traits.num_stages_per_process or self.num_stages_per_process or 2,
        )


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


class ReportingConfig(Settings):
    """What people see of a running loop."""

    progress_bar: bool | None = None
    """Whether to draw a progress bar; `None` draws one where there is a terminal, and logs lines elsewhere."""

    period_steps: PositiveInt | None = 10
    """How often to report numbers, in steps; `None` never does. No report waits for the device: it appears with a
    later step, when the device has its numbers, and the last one at the end of the loop."""

    json_lines: Path | None = Path("runs/metrics.jsonl")
    """The file to which each report is appended as a line of JSON; several runs may share it. `None` writes none."""

    tensorboard: Path | None = None
    """The folder for TensorBoard, in which each loop has one of its own; it takes
    `pip install 'd9d-hooks[tensorboard]'`, and a folder for each run. `None` writes nothing."""


class TimeoutConfig(Settings):
    """How long processes wait for one another before they give up."""

    start_seconds: PositiveFloat = 1800.0
    """From the start until the first step is complete: others may still read data, compile or load weights."""

    step_seconds: PositiveFloat = 600.0
    """In each operation of all later steps."""


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


class TrainingConfig(LoopConfig):
    """Everything about a training run that is a number, a name or a path."""

    total_steps: PositiveInt
    """How many optimizer steps the run has."""

    max_gradient_norm: PositiveFloat | None = 1.0
    """The L2 norm, over all parameters, to which larger gradients are scaled down. `None` leaves them as they are, as
    sparse gradients need."""

    non_finite_gradients: Literal["allow", "skip", "stop"] = "allow"
    """What happens in a step in which the norm over all gradients is infinite or NaN. `allow` takes the step, and is
    the only choice that every optimizer can follow and that costs nothing: the loss in the reports shows what became of
    it. `skip` changes neither weights nor the optimizer's state in such a step; the learning rate goes on as it would.
    `stop` takes no step from there on, and raises an error a few steps later. Both need an optimizer with
    `fused=True`, and no step waits for the device to know."""

    gradient_dtype: Literal["fp32"] | None = None
    """The number format in which the gradients of parameters of 16 bits are gathered over the micro-batches of a step,
    measured and clipped; the optimizer gets them in the format of the parameters. `None` gathers in that one, where a
    sum loses what is small beside it. Under FSDP, whose `MixedPrecisionPolicy.reduce_dtype` does the same for
    the sum over processes, that one must be fp32 as well; fp32 parameters with `param_dtype=torch.bfloat16` and
    `reduce_dtype=torch.float32` need nothing else."""

    @model_validator(mode="after")
    def _micro_batches_suit_schedule(self) -> Self:
        num_processes, schedule = self.mesh.pipeline_parallel, SCHEDULES[self.pipeline.schedule]
        if num_processes == 1 or schedule.accepts(self.num_micro_batches, num_processes):
            return self
        fitting = [
            number
            for number in range(1, self.num_micro_batches + 2 * num_processes + 1)
            if schedule.accepts(number, num_processes)
        ]
        nearest = min(fitting, key=lambda number: abs(number - self.num_micro_batches))
        samples = self.samples_per_micro_batch * self.mesh.data_parallel_size
        raise ValueError(
            f"pipeline.schedule={self.pipeline.schedule!r} on mesh.pipeline_parallel={num_processes} cannot take the "
            f"{self.num_micro_batches} micro-batches that each process has in a step: it takes "
            f"{', '.join(str(number) for number in fitting)} and so on; set global_batch_size={nearest * samples}, or "
            "another micro_batch_size"
        )


class InferenceConfig(LoopConfig):
    """Everything about an inference run that is a number, a name or a path."""
