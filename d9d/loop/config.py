"""The settings of a loop: what each means, its unit, and its default."""

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, field_validator, model_validator

from d9d.core.dist_context import DeviceMeshParameters
from d9d.core.pipeline import SCHEDULES, ScheduleName, StagePosition
from d9d.core.settings import ConfigurationError, LocalPath, Settings

__all__ = [
    "CheckpointingConfig",
    "ConfigurationError",
    "DataLoadingConfig",
    "DeviceMeshParameters",
    "InferenceConfig",
    "KeepBest",
    "LoopConfig",
    "PipelineConfig",
    "Precision",
    "ProfilingConfig",
    "ReportingConfig",
    "ResumeConfig",
    "TimeoutConfig",
    "TrainingConfig",
]


class KeepBest(Settings):
    """Which checkpoints are kept because of the results of an evaluation. One that improves them makes a save due."""

    metric: str
    """The result that decides: the name of an evaluation and the name of a number, such as `validation/loss`."""

    mode: Literal["min", "max"] = "min"
    """Whether smaller values are better, as for a loss and by default, or larger ones. Of equal values the earlier one
    is better, and NaN is never the best."""

    num: PositiveInt = 1
    """The number of best checkpoints that are kept. By default 1."""

    @field_validator("metric")
    @classmethod
    def _has_two_names(cls, metric: str) -> str:
        if not all(metric.partition("/")):
            raise ValueError(
                f"metric={metric!r} is not the name of an evaluation, a slash, and the name of a number: use "
                "'validation/loss' for the loss of an evaluation named 'validation'"
            )
        return metric

    @property
    def evaluation(self) -> str:
        """The name of the evaluation."""
        return self.metric.partition("/")[0]

    @property
    def number(self) -> str:
        """The name of the number among the results of the evaluation."""
        return self.metric.partition("/")[2]


class CheckpointingConfig(Settings):
    """Where and how often the state of a job is saved. The same job, run again, resumes from the newest checkpoint."""

    folder: LocalPath
    """The folder for the checkpoints of this job; nothing else may be in it."""

    period_steps: PositiveInt | None = 1000
    """The number of steps between two saves; `None` saves by `period_epochs` and `period_minutes` alone. By default
    1000. The last step is always saved."""

    period_epochs: PositiveInt | None = None
    """The number of passes over the training data between two saves: one is due after the step that takes the last
    sample of such a pass. `None`, the default, does not count passes."""

    period_minutes: PositiveFloat | None = None
    """The longest time between two saves, in minutes on the clock of the main process; with several processes, a save
    may come up to six steps later. `None`, the default, does not look at the clock."""

    num_to_keep: PositiveInt = 3
    """The number of newest checkpoints that are kept; older ones are removed, except those that `keep_best` and
    `keep_every_steps` keep. By default 3."""

    keep_best: KeepBest | None = None
    """Which checkpoints are also kept because of the results of an evaluation. `None`, the default, keeps none for
    that."""

    keep_every_steps: PositiveInt | None = None
    """Checkpoints whose number of steps is a multiple of this are never removed. It must be a multiple of
    `period_steps`. `None`, the default, keeps none for that."""

    trainable_only: bool = False
    """Whether checkpoints leave out parameters that do not require a gradient. A run that resumes takes these from
    `source_checkpoint`, or else from the model provider. By default checkpoints hold all weights."""

    asynchronous: bool = False
    """Whether the loop continues while a checkpoint is written. It then needs host memory for a copy of the state, and
    a save that fails raises its error at the next save, or at the end of the loop. By default the loop waits until the
    checkpoint is on disk."""

    @model_validator(mode="after")
    def _saves_what_it_keeps(self) -> Self:
        kept, period = self.keep_every_steps, self.period_steps
        if kept is not None and (period is None or kept % period != 0):
            raise ValueError(
                f"keep_every_steps={kept} is not a multiple of period_steps={period}, so not all of these steps would "
                f"be saved: set period_steps to {kept} or a divisor of it"
            )
        return self


class ResumeConfig(Settings):
    """Whether a run resumes, from which checkpoint, and what may differ from it."""

    mode: Literal["auto", "never", "must"] = "auto"
    """`auto`, the default, resumes from the newest complete checkpoint of `checkpointing.folder`, if there is one.
    `never` starts fresh, and refuses a folder that has checkpoints. `must` refuses to start fresh."""

    checkpoint: LocalPath | None = None
    """The checkpoint to start from, unless this run has branched off it before and has checkpoints of its own since:
    that of another run, which then branches into `checkpointing.folder`, or an older one of this run; newer ones are
    then kept under another name. A folder of checkpoints means the newest complete one. `None`, the default, takes the
    newest of this run."""

    parts: Literal["weights", "weights_and_moments", "everything"] = "everything"
    """What is taken from `checkpoint`. `everything`, the default, continues that run. `weights` and
    `weights_and_moments`, the moments of the optimizer, start a new run at step 0."""

    allow: frozenset[Literal["global_batch_size", "num_samples", "seed", "stopped"]] = frozenset()
    """What else may differ from the checkpoint. `seed` and `num_samples`, the size of the dataset, change the order of
    the data from the next pass on; with another `global_batch_size` the run continues at the first sample that it has
    not read. In inference, `num_samples` adds the new samples at the end, and another batch size needs no permission.
    `stopped` continues a run that a handler has stopped. By default none."""

    @model_validator(mode="after")
    def _uses_checkpoint(self) -> Self:
        if self.checkpoint is not None and self.mode == "never":
            raise ValueError(
                f"mode='never' starts fresh, and checkpoint={str(self.checkpoint)!r} does not: leave one out"
            )
        if self.checkpoint is None and self.parts != "everything":
            raise ValueError(f"parts={self.parts!r} says what is taken from checkpoint, which is None: set it too")
        return self


class DataLoadingConfig(Settings):
    """How samples are read from the dataset."""

    num_workers: NonNegativeInt = 0
    """The number of worker processes per rank that read samples ahead. With 0, the default, the loop reads each sample
    when it needs it. Random numbers drawn in a dataset are the same for any number of workers above 0, and different
    for 0. The order of iterable data depends on the number."""


class PipelineConfig(Settings):
    """How the stages of a pipeline take turns. It has no effect while `mesh.pipeline_parallel` is 1."""

    schedule: ScheduleName = "1f1b"
    """The order of forward and backward passes, by default `1f1b`. `gpipe` and `1f1b` have one stage per process, `zbv`
    and `dualpipev` have two, and the others have `num_stages_per_process`."""

    num_stages_per_process: PositiveInt | None = None
    """The number of stages in each process. `None`, the default, is 2 for schedules that leave a choice."""

    activation_dtype: Literal["fp32", "bf16"] | None = None
    """The dtype in which activations and their gradients are sent between stages. `None`, the default, is the dtype in
    which the stages return them: with `precision="bf16-autocast"`, bf16 after a matrix product."""

    @model_validator(mode="after")
    def _stages_suit_schedule(self) -> Self:
        fixed, asked = SCHEDULES[self.schedule].num_stages_per_process, self.num_stages_per_process
        if fixed is not None and asked not in (None, fixed):
            raise ValueError(
                f"schedule={self.schedule!r} has {fixed} stage{'s' * (fixed > 1)} per process, and "
                f"num_stages_per_process is {asked}: leave it out, or choose another schedule"
            )
        if fixed is None and asked == 1:
            raise ValueError(
                f"schedule={self.schedule!r} has several stages per process, and num_stages_per_process is 1: set it "
                "to 2 or more, or choose '1f1b'"
            )
        return self

    def stages_of(self, process: int, num_processes: int) -> list[StagePosition]:
        """Return the stages that a process holds.

        Args:
            process: Its position in the pipeline, from 0.
            num_processes: The number of processes in the pipeline; a single one holds the whole model.

        Returns:
            The stages, in pipeline order.
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
    """Which steps `torch.profiler` records, in cycles that start with the first step that a process runs."""

    folder: LocalPath
    """The folder in which each rank writes one trace per cycle, for Perfetto and TensorBoard."""

    wait_steps: NonNegativeInt = 5
    """The number of steps at the start of each cycle that are not recorded. By default 5."""

    warmup_steps: PositiveInt = 1
    """The number of steps after them that are recorded and discarded, since the first steps under the profiler are
    slower. By default 1."""

    active_steps: PositiveInt = 3
    """The number of steps after them that are recorded and kept. By default 3."""

    num_cycles: PositiveInt = 1
    """The number of cycles; after the last one, nothing is recorded. By default 1."""

    with_stack: bool = False
    """Whether to record the line of code that calls each operator, which makes the recorded steps slower. By default it
    is not recorded."""


class ReportingConfig(Settings):
    """Where and how often a loop reports its numbers; the main process does."""

    progress_bar: bool | None = None
    """Whether to draw a progress bar on stderr. `None`, the default, draws one on a terminal and in a notebook.
    Elsewhere each report is a message of `logging`. How the run starts, each checkpoint, and how the run ends are such
    messages everywhere. With `False`, and no reports, a run says nothing."""

    period_steps: PositiveInt | None = 10
    """The number of steps between two reports, by default 10; `None` reports nothing. No step waits for the device: a
    report appears in a later step, when its numbers have reached the host, and the last one at the end of the loop."""

    json_lines: LocalPath | None = Path("runs/metrics.jsonl")
    """The file to which each report is appended as a line of JSON, by default `runs/metrics.jsonl`. Several runs may
    share it. `None` writes no file."""

    tensorboard: LocalPath | None = None
    """The folder for TensorBoard, in which each loop has a subfolder. Each run needs a different one. `None`, the
    default, writes nothing. It needs `pip install 'd9d-hooks[tensorboard]'`."""

    @property
    def is_quiet(self) -> bool:
        """Whether a run says nothing."""
        return self.progress_bar is False and self.period_steps is None


class TimeoutConfig(Settings):
    """How long processes wait for each other before they give up."""

    start_seconds: PositiveFloat = 1800.0
    """The longest wait in an operation until the first step is complete, in seconds: other processes may still read
    data, compile, or load weights. By default half an hour."""

    step_seconds: PositiveFloat = 600.0
    """The longest wait in an operation of any later step, in seconds. By default ten minutes."""

    closing_seconds: PositiveFloat = 10.0
    """How long the handlers of `train.failed`, `train.closed` and their counterparts of inference may take on a rank
    that has failed, in seconds, before the job ends. By default ten seconds."""


Precision = Literal["fp32", "bf16-autocast"]
"""The dtype of forward passes: the dtype of the weights, or `torch.autocast` to bfloat16."""


class LoopConfig(Settings):
    """The settings that training and inference have in common."""

    mesh: DeviceMeshParameters = DeviceMeshParameters()
    """How the processes of the job divide the work; by default there is one process. In a file, `auto` shards samples
    and model over all processes that were started. In Python, use `DeviceMeshParameters.auto()`."""

    pipeline: PipelineConfig = PipelineConfig()
    """How the stages of a pipeline take turns; by default `1f1b`."""

    timeouts: TimeoutConfig = TimeoutConfig()
    """How long processes wait for each other before they give up."""

    global_batch_size: PositiveInt
    """The number of samples in one step, over all processes."""

    micro_batch_size: PositiveInt | None = None
    """The number of samples that go through the model at once, in one process. `None`, the default, is all samples that
    a process has in a step."""

    device: str | None = None
    """The device to run on, such as `cpu`. `None`, the default, is the accelerator if there is one, else the CPU."""

    precision: Precision = "fp32"
    """The dtype of forward passes: `fp32`, the default, keeps the dtype of the weights, and `bf16-autocast` uses
    `torch.autocast` to bfloat16."""

    seed: int = Field(default=0, ge=0, lt=2**63)
    """The seed of all random numbers of the job: initial weights, dropout, and the order of the data. By default 0."""

    source_checkpoint: LocalPath | tuple[LocalPath, ...] | None = None
    """The weights to start from: a checkpoint of a training run; a folder of checkpoints, of which the newest complete
    one is used; or a safetensors file or a folder of such files, exported or published. Several are loaded together,
    such as a base and an adapter; if more than one has a weight, the last counts. `None`, the default, keeps the
    weights of the model provider. Training that has its own checkpoint resumes from that, and does not read these,
    unless its checkpoints are `trainable_only`."""

    data_loading: DataLoadingConfig = DataLoadingConfig()
    """How samples are read from the dataset."""

    checkpointing: CheckpointingConfig | None = None
    """Where and how often the state of the job is saved. `None`, the default, saves nothing."""

    resume: ResumeConfig = ResumeConfig()
    """Whether the run resumes, from which checkpoint, and what may differ from it. By default it resumes from its
    newest checkpoint."""

    reporting: ReportingConfig = ReportingConfig()
    """Where and how often the loop reports its numbers."""

    garbage_collection_period_steps: PositiveInt | None = 100
    """The number of steps between two collections of Python's garbage, by default 100. All ranks collect after the same
    steps, in place of automatic collection; `None` leaves automatic collection on. Lower it if objects in reference
    cycles hold a lot of memory."""

    profiling: ProfilingConfig | None = None
    """Which steps `torch.profiler` records. `None`, the default, records nothing."""

    @model_validator(mode="after")
    def _resumes_where_it_saves(self) -> Self:
        asked = "mode" if self.resume.checkpoint is None else "checkpoint"
        if self.checkpointing is None and (self.resume.mode == "must" or self.resume.checkpoint is not None):
            raise ValueError(
                f"resume.{asked} is set, and checkpointing is None, so the run could not resume: set "
                "checkpointing=CheckpointingConfig(folder=...), or to start from weights alone, source_checkpoint"
            )
        return self

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
            f"global_batch_size={self.global_batch_size} cannot be divided{size}{parts}: it must be a multiple of "
            f"{divisor}, such as {nearest}"
        )

    @property
    def samples_per_micro_batch(self) -> int:
        """The number of samples that go through the model at once."""
        return self.micro_batch_size or self.global_batch_size // self.mesh.data_parallel_size

    @property
    def num_micro_batches(self) -> int:
        """The number of micro-batches that each process has in a full step."""
        return self.global_batch_size // (self.samples_per_micro_batch * self.mesh.data_parallel_size)


class TrainingConfig(LoopConfig):
    """The settings of a training run."""

    total_steps: PositiveInt
    """The number of optimizer steps in the run."""

    max_gradient_norm: PositiveFloat | None = 1.0
    """The largest L2 norm of the gradients of all parameters together; larger gradients are scaled down to it. By
    default 1.0. `None` does not clip."""

    non_finite_gradients: Literal["allow", "skip", "stop"] = "allow"
    """What happens in a step whose gradient norm is infinite or NaN. `allow`, the default, takes the step: the loss in
    the reports shows the result. `skip` changes neither the weights nor the state of the optimizer in that step; the
    learning rate schedule continues. `stop` takes no further step, and raises an error a few steps later. `skip` and
    `stop` need an optimizer with `fused=True`; no step waits for the device to check the norm."""

    gradient_dtype: Literal["fp32"] | None = None
    """The dtype in which gradients of 16-bit parameters are accumulated over the micro-batches of a step, measured and
    clipped; the optimizer gets them in the dtype of the parameters. `None`, the default, accumulates in the dtype of
    the parameters, where a sum loses small terms. With FSDP, `MixedPrecisionPolicy.reduce_dtype` must be
    `torch.float32` too, which is the same setting for the sum over processes. Parameters in fp32 with
    `param_dtype=torch.bfloat16` and `reduce_dtype=torch.float32` do not need it."""

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
            f"pipeline.schedule={self.pipeline.schedule!r} on mesh.pipeline_parallel={num_processes} cannot run the "
            f"{self.num_micro_batches} micro-batches that each process has in a step: it can run "
            f"{', '.join(str(number) for number in fitting)} and so on; set global_batch_size={nearest * samples}, or "
            "another micro_batch_size"
        )


class InferenceConfig(LoopConfig):
    """The settings of an inference run."""

    @model_validator(mode="after")
    def _has_no_settings_of_training(self) -> Self:
        for name in ("period_epochs", "keep_best"):
            if self.checkpointing is not None and getattr(self.checkpointing, name) is not None:
                raise ValueError(
                    f"checkpointing.{name} is set, and inference reads its data once and evaluates nothing: leave it "
                    "out"
                )
        if self.resume.parts != "everything":
            raise ValueError(
                f"resume.parts={self.resume.parts!r} starts a new run, and inference takes its weights from "
                "source_checkpoint: leave it out"
            )
        return self
