"""A run of several ranks in which something goes wrong: a script that the tests of failures start with torchrun.

Its only argument is a `Plan` in JSON. Each rank appends a line to `home/rank-N` for each event.
"""

import dataclasses
import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch import distributed, nn
from torch.utils.data import Dataset

from d9d.core.parallel import shard_data_parallel
from d9d.loop.config import (
    CheckpointingConfig,
    DataLoadingConfig,
    DeviceMeshParameters,
    InferenceConfig,
    ReportingConfig,
    TimeoutConfig,
    TrainingConfig,
)
from d9d.loop.control import (
    BuildForwardInputsContext,
    BuildForwardInputsResult,
    ComputeLossContext,
    ComputeLossResult,
    InferenceTask,
    InitializeDatasetContext,
    InitializeDatasetResult,
    InitializeModelStageContext,
    InitializeModelStageResult,
    ModelProvider,
    ParallelizeModelStageContext,
    ProcessOutputsContext,
    RegisterTaskEventsContext,
    TrainTask,
)
from d9d.loop.event import Event, EventBus
from d9d.loop.event.catalogue import inference, train
from d9d.loop.run import InferenceConfigurator, TrainingConfigurator, launch

RANK, NUM_RANKS = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
GLOBAL_BATCH_SIZE = 8
ATTEMPT = int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """What goes wrong."""

    home: str
    event: str = ""
    """The function below that is called; none by default."""
    rank: int | None = 1
    """On which rank; `None` means on all."""
    step: int = 3
    """In which step, counted from 0, before its gradients are computed."""
    num_attempts: int = 1
    """In how many attempts of the job it happens, one step later each time."""
    catches: bool = False
    """Whether `main` catches the error, waits for all other ranks, and continues."""
    finally_: str = ""
    """The function below that `main` calls in `finally`; none by default."""
    closes: str = ""
    """The function below that the handler of the failure calls on the rank of the event; none by default."""
    closing_seconds: float = 10.0
    num_steps: int = 8
    step_seconds: float = 60.0
    num_workers: int = 0
    infers: bool = False
    waits_on_device: bool = False
    """Whether ranks share nothing but what they agree on, and the others hang in the next step, as they would if they
    waited for a device that waits for the rank that hangs."""


def fail() -> None:
    """Fail."""
    raise LookupError("the true cause")


def hang() -> None:
    """Sleep for longer than any test waits."""
    time.sleep(1000)


def rest() -> None:
    """Take longer than the job would take to end."""
    time.sleep(3)


def fail_too() -> None:
    """Fail in the handler of a failure."""
    raise OSError("the tracker is gone")


def be_killed() -> None:
    """Die as if killed by the kernel for lack of memory."""
    os.kill(os.getpid(), signal.SIGKILL)


def be_terminated() -> None:
    """Receive the signal that launchers send."""
    os.kill(os.getpid(), signal.SIGTERM)


def be_preempted() -> None:
    """Receive the signal that Slurm can send."""
    os.kill(os.getpid(), signal.SIGUSR1)


def do_nothing() -> None:
    """Do nothing; only the time is recorded."""


def leave() -> None:
    """Exit with status 3."""
    sys.exit(3)


def meet() -> None:
    """Wait for all other ranks."""
    distributed.barrier()


def tear_down() -> None:
    """Close all connections."""
    distributed.destroy_process_group()


class Noise(Dataset[dict[str, torch.Tensor]]):
    """Features `[feature]`."""

    def __init__(self, num_samples: int) -> None:
        self._num_samples = num_samples

    def __len__(self) -> int:
        return self._num_samples

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {"input": torch.randn(4, generator=torch.Generator().manual_seed(index))}


class Provider(ModelProvider):
    """Provides a linear layer that is sharded over all ranks."""

    def initialize_model_stage(self, ctx: InitializeModelStageContext) -> InitializeModelStageResult:
        return InitializeModelStageResult(model=nn.Linear(4, 1))

    def parallelize_model_stage(self, ctx: ParallelizeModelStageContext) -> None:
        shard_data_parallel(ctx.model, ctx.dist_context)


class Listener:
    """Records all events, and calls the planned function."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._file = (Path(plan.home) / f"rank-{RANK}").open("a", buffering=1)
        self.record("pid", os.getpid())

    def record(self, *words: object) -> None:
        print(*words, file=self._file)

    def subscribe_to(self, bus: EventBus) -> None:
        module = inference if self._plan.infers else train
        for event in (found for name in module.__all__ if isinstance(found := getattr(module, name), Event)):
            # A listener of the gradients would make the ranks share their norm.
            if not (self._plan.waits_on_device and event == train.EVENT_TRAIN_GRADIENTS_READY):
                bus.subscribe(event, self._recording(event.id))
        bus.subscribe(
            inference.EVENT_INFERENCE_FORWARD_PRE if self._plan.infers else train.EVENT_TRAIN_FORWARD_BACKWARD_PRE,
            self._act,
        )
        if self._plan.infers:
            bus.subscribe(inference.EVENT_INFERENCE_FAILED, self._close)
        else:
            bus.subscribe(train.EVENT_TRAIN_FAILED, self._close)

    def _close(self, ctx: train.EventTrainFailedContext | inference.EventInferenceFailedContext) -> None:
        self.record("failed", ctx.last_event, repr(ctx.error))
        if self._plan.closes and self._plan.rank == RANK:
            globals()[self._plan.closes]()
            self.record("closed", self._plan.closes)

    def _recording(self, event_id: str) -> Any:
        return lambda ctx: self.record("event", event_id)

    def _act(self, ctx: train.EventStepContext) -> None:
        plan, step = self._plan, ctx.stepper.current_step
        if plan.event and plan.rank == RANK and plan.num_attempts > ATTEMPT and step == plan.step + ATTEMPT:
            self.record("at", time.time())
            globals()[plan.event]()
        elif plan.waits_on_device and step == plan.step + 1:
            hang()


class Task(TrainTask, InferenceTask):
    """Trains the outputs towards zero."""

    def __init__(self, listener: Listener) -> None:
        self._listener = listener

    def register_events(self, ctx: RegisterTaskEventsContext) -> None:
        self._listener.subscribe_to(ctx.event_bus)

    def build_forward_inputs(self, ctx: BuildForwardInputsContext) -> BuildForwardInputsResult:
        return BuildForwardInputsResult(inputs=ctx.batch)

    def compute_loss(self, ctx: ComputeLossContext) -> ComputeLossResult:
        return ComputeLossResult(loss=ctx.outputs.square().mean())

    def process_outputs(self, ctx: ProcessOutputsContext) -> None:
        """Use no outputs."""


def run(plan: Plan) -> None:
    """Run the loop."""
    task = Task(Listener(plan))

    def provide_dataset(ctx: InitializeDatasetContext) -> InitializeDatasetResult:
        return InitializeDatasetResult(dataset=Noise(GLOBAL_BATCH_SIZE * plan.num_steps))

    # With tensor parallelism that the model does not use, ranks have the same samples and exchange no gradients.
    dimension = "tensor_parallel" if plan.waits_on_device else "data_parallel_shard"
    settings: dict[str, Any] = {
        "device": "cpu",
        "global_batch_size": GLOBAL_BATCH_SIZE,
        "mesh": DeviceMeshParameters(**{dimension: NUM_RANKS}),
        "timeouts": TimeoutConfig(
            start_seconds=60.0, step_seconds=plan.step_seconds, closing_seconds=plan.closing_seconds
        ),
        "data_loading": DataLoadingConfig(num_workers=plan.num_workers),
        "checkpointing": CheckpointingConfig(folder=Path(plan.home) / "checkpoints", period_steps=2),
        "reporting": ReportingConfig(progress_bar=False, json_lines=None),
    }
    if plan.infers:
        InferenceConfigurator(
            config=InferenceConfig(**settings), task=task, model_provider=Provider(), dataset_provider=provide_dataset
        ).configure().infer()
    else:
        TrainingConfigurator(
            config=TrainingConfig(
                **settings, total_steps=plan.num_steps, max_gradient_norm=None if plan.waits_on_device else 1.0
            ),
            task=task,
            model_provider=Provider(),
            dataset_provider=provide_dataset,
        ).configure().train()


def main() -> None:
    """Run as planned."""
    torch.set_num_threads(1)
    plan = Plan(**json.loads(sys.argv[1]))
    try:
        run(plan)
    except LookupError:
        if not plan.catches:
            raise
        time.sleep(2)
        meet()
    finally:
        if plan.finally_:
            globals()[plan.finally_]()


if __name__ == "__main__":
    launch(main)
