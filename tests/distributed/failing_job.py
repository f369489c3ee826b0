"""A training run of several ranks to which something happens: a script which the tests of failures start by torchrun.

It takes one argument, the fields of `Plan` in JSON. Each rank appends to `home/rank-N` what happens to it, a line each.
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
    """What happens."""

    home: str
    event: str = ""
    """What happens, the name of a function below; nothing by default."""
    rank: int | None = 1
    """To which rank; `None` means to all."""
    step: int = 3
    """In which step, counted from 0, before its gradients are computed."""
    num_lives: int = 1
    """In how many lives of the job it happens, a step later each time."""
    catches: bool = False
    """Whether `main` catches what is raised, waits for all others, and goes on."""
    finally_: str = ""
    """What `main` does on the way out, the name of a function below."""
    num_steps: int = 8
    step_seconds: float = 60.0
    num_workers: int = 0
    infers: bool = False


def fail() -> None:
    """Fail."""
    raise LookupError("the true cause")


def hang() -> None:
    """Do nothing, for longer than any test waits."""
    time.sleep(1000)


def be_killed() -> None:
    """End as by the kernel when memory is short."""
    os.kill(os.getpid(), signal.SIGKILL)


def be_terminated() -> None:
    """Get the signal that launchers send."""
    os.kill(os.getpid(), signal.SIGTERM)


def be_preempted() -> None:
    """Get the signal that Slurm can send."""
    os.kill(os.getpid(), signal.SIGUSR1)


def resume() -> None:
    """Do nothing, and be noted."""


def leave() -> None:
    """Leave with a status of its own."""
    sys.exit(3)


def meet() -> None:
    """Wait for all others."""
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
    """Brings a linear layer that all ranks share."""

    def initialize_model_stage(self, ctx: InitializeModelStageContext) -> InitializeModelStageResult:
        return InitializeModelStageResult(model=nn.Linear(4, 1))

    def parallelize_model_stage(self, ctx: ParallelizeModelStageContext) -> None:
        shard_data_parallel(ctx.model, ctx.dist_context)


class Listener:
    """Notes all events, and has the planned thing happen."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._file = (Path(plan.home) / f"rank-{RANK}").open("a", buffering=1)
        self.note("pid", os.getpid())

    def note(self, *words: object) -> None:
        print(*words, file=self._file)

    def subscribe_to(self, bus: EventBus) -> None:
        module = inference if self._plan.infers else train
        for event in (found for name in module.__all__ if isinstance(found := getattr(module, name), Event)):
            bus.subscribe(event, self._noting(event.id))
        bus.subscribe(
            inference.EVENT_INFERENCE_FORWARD_PRE if self._plan.infers else train.EVENT_TRAIN_FORWARD_BACKWARD_PRE,
            self._act,
        )

    def _noting(self, event_id: str) -> Any:
        return lambda ctx: self.note("event", event_id)

    def _act(self, ctx: train.EventStepContext) -> None:
        plan, step = self._plan, ctx.stepper.current_step
        if plan.event and plan.rank == RANK and plan.num_lives > ATTEMPT and step == plan.step + ATTEMPT:
            self.note("at", time.time())
            globals()[plan.event]()


class Task(TrainTask, InferenceTask):
    """Makes the outputs small."""

    def __init__(self, listener: Listener) -> None:
        self._listener = listener

    def register_events(self, ctx: RegisterTaskEventsContext) -> None:
        self._listener.subscribe_to(ctx.event_bus)

    def build_forward_inputs(self, ctx: BuildForwardInputsContext) -> BuildForwardInputsResult:
        return BuildForwardInputsResult(inputs=ctx.batch)

    def compute_loss(self, ctx: ComputeLossContext) -> ComputeLossResult:
        return ComputeLossResult(loss=ctx.outputs.square().mean())

    def process_outputs(self, ctx: ProcessOutputsContext) -> None:
        """Use none of them."""


def run(plan: Plan) -> None:
    """Run the loop."""
    task = Task(Listener(plan))

    def provide_dataset(ctx: InitializeDatasetContext) -> InitializeDatasetResult:
        return InitializeDatasetResult(dataset=Noise(GLOBAL_BATCH_SIZE * plan.num_steps))

    settings: dict[str, Any] = {
        "device": "cpu",
        "global_batch_size": GLOBAL_BATCH_SIZE,
        "mesh": DeviceMeshParameters(data_parallel_shard=NUM_RANKS),
        "timeouts": TimeoutConfig(start_seconds=60.0, step_seconds=plan.step_seconds),
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
            config=TrainingConfig(**settings, total_steps=plan.num_steps),
            task=task,
            model_provider=Provider(),
            dataset_provider=provide_dataset,
        ).configure().train()


def main() -> None:
    """Do as planned."""
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
