"""A training run that can be killed, as a script that the tests of bit-exact resuming start.

It draws from each random number generator that a user may draw from: torch's in dropout, Python's in the dataset,
NumPy's in the task. The script is a fork server that has imported torch already. For each line of its input, a JSON
object with the arguments of `main`, it forks, prints the process id of the child, and then its exit status.
"""

import itertools
import json
import os
import random
import signal
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import Dataset

from d9d.core.protocol import LRSchedulerProtocol
from d9d.loop.component.evaluation import Evaluation
from d9d.loop.config import CheckpointingConfig, ReportingConfig, TrainingConfig
from d9d.loop.control import (
    BuildForwardInputsContext,
    BuildForwardInputsResult,
    ComputeLossContext,
    ComputeLossResult,
    InitializeDatasetContext,
    InitializeDatasetResult,
    InitializeLRSchedulerContext,
    InitializeModelStageContext,
    InitializeModelStageResult,
    ModelProvider,
    RegisterTaskEventsContext,
    TrainTask,
)
from d9d.loop.event import Event
from d9d.loop.event.catalogue import train
from d9d.loop.run import TrainingConfigurator

NUM_STEPS = 60
PERIOD_STEPS = 3
IN_EVALUATION = "evaluation"
EVALUATION_STEPS = 5
_CHANGES = frozenset({"os.mkdir", "os.rename", "os.remove", "os.rmdir"})


class NoisyDataset(Dataset[dict[str, torch.Tensor]]):
    """Samples to which Python's generator adds noise each time they are read."""

    def __init__(self) -> None:
        self._features = torch.randn(50, 4, generator=torch.Generator().manual_seed(1))

    def __len__(self) -> int:
        return len(self._features)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        features = self._features[index]
        return {"features": features + random.gauss(0.0, 0.1), "target": features.prod()}


class WeighingTask(TrainTask):
    """Weights each micro-batch by a random number from NumPy; the sum of the weights is its state."""

    def __init__(self, trace: Path, kill_at: tuple[str, int] | None) -> None:
        self._trace = os.open(trace, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        self._kill_at = kill_at
        self._step = 0
        self._weight_sum = torch.zeros(())
        self._results: list[float] = []

    def register_events(self, ctx: RegisterTaskEventsContext) -> None:
        events = [event for name in train.__all__ if isinstance(event := getattr(train, name), Event)]
        for event in events:
            ctx.event_bus.subscribe(event, self._noting(event.id))
        ctx.event_bus.subscribe(train.EVENT_TRAIN_EVALUATION_FINISHED, self._keep_results)

    def _noting(self, event_id: str) -> Any:
        def note(ctx: object) -> None:
            os.write(self._trace, f"{event_id}\n".encode())
            if isinstance(ctx, train.EventStepContext) and (event_id, ctx.stepper.current_step) == self._kill_at:
                os.kill(os.getpid(), signal.SIGKILL)

        return note

    def _keep_results(self, ctx: train.EventEvaluationFinishedContext) -> None:
        self._results += [float(ctx.stepper.current_step), ctx.metrics["loss"]]

    def build_forward_inputs(self, ctx: BuildForwardInputsContext) -> BuildForwardInputsResult:
        return BuildForwardInputsResult(inputs={"input": ctx.batch["features"]})

    def compute_loss(self, ctx: ComputeLossContext) -> ComputeLossResult:
        if ctx.evaluation is not None and (IN_EVALUATION, ctx.stepper.current_step) == self._kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        weight = torch.tensor(np.random.uniform(0.5, 1.5), dtype=torch.float32)
        self._weight_sum += weight
        loss = nn.functional.mse_loss(ctx.outputs[:, 0], ctx.batch["target"])
        return ComputeLossResult(loss=loss, loss_weight=weight)

    def state_dict(self) -> dict[str, Any]:
        return {"weight_sum": self._weight_sum, "results": list(self._results)}

    def load_state_dict(self, state_dict: dict[str, Any], /) -> None:
        self._weight_sum, self._results = state_dict["weight_sum"], state_dict["results"]


class DropoutModelProvider(ModelProvider):
    """Provides a model with parameters, buffers and dropout."""

    def initialize_model_stage(self, ctx: InitializeModelStageContext) -> InitializeModelStageResult:
        model = nn.Sequential(nn.Linear(4, 16), nn.BatchNorm1d(16), nn.GELU(), nn.Dropout(0.3), nn.Linear(16, 1))
        return InitializeModelStageResult(model=model)


def provide_dataset(ctx: InitializeDatasetContext) -> InitializeDatasetResult:
    """Provide the data."""
    return InitializeDatasetResult(dataset=NoisyDataset())


def provide_lr_scheduler(ctx: InitializeLRSchedulerContext) -> LRSchedulerProtocol:
    """Provide a scheduler whose learning rate differs in each step."""
    return torch.optim.lr_scheduler.OneCycleLR(ctx.torch_optimizer, max_lr=0.02, total_steps=ctx.total_steps + 1)


def kill_in_save(folder: Path, nth_operation: int) -> None:
    """Kill this process right before its n-th file operation in a folder."""
    operations = itertools.count(1)

    def watch(name: str, arguments: tuple[object, ...]) -> None:
        # Files are removed by name relative to an open folder, so every `os.remove` here is one of a checkpoint.
        is_ours = name == "os.remove" or str(folder) in str(arguments[:1])
        is_change = name in _CHANGES or (name == "open" and arguments[1] in ("w", "x"))
        if is_ours and is_change and next(operations) == nth_operation:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(watch)


def main(
    *,
    folder: str,
    trace: str,
    kill_at: tuple[str, int] | None = None,
    kill_in_nth_operation: int | None = None,
    asynchronous: bool = False,
) -> None:
    """Train to the end, or until killed.

    Args:
        folder: Where the checkpoints are.
        trace: The file to which the id of each event is appended.
        kill_at: The event, and the step, whose handler kills the process; or an evaluation, which the task does.
        kill_in_nth_operation: The number of the file operation of checkpoints, from 1, before which the process is
            killed.
        asynchronous: Whether checkpoints are written asynchronously.
    """
    torch.set_num_threads(1)
    if kill_in_nth_operation is not None:
        kill_in_save(Path(folder), kill_in_nth_operation)
    TrainingConfigurator(
        config=TrainingConfig(
            total_steps=NUM_STEPS,
            global_batch_size=8,
            micro_batch_size=4,
            device="cpu",
            max_gradient_norm=0.5,
            checkpointing=CheckpointingConfig(
                folder=Path(folder), period_steps=PERIOD_STEPS, num_to_keep=2, asynchronous=asynchronous
            ),
            reporting=ReportingConfig(progress_bar=False, json_lines=None),
        ),
        task=WeighingTask(Path(trace), None if kill_at is None else (kill_at[0], kill_at[1])),
        model_provider=DropoutModelProvider(),
        dataset_provider=provide_dataset,
        lr_scheduler_provider=provide_lr_scheduler,
        evaluations={
            "validation": Evaluation(
                dataset_provider=provide_dataset, period_steps=EVALUATION_STEPS, at_start=True, max_steps=2
            )
        },
    ).configure().train()


def serve() -> None:
    """Run `main` in a separate process for each line of arguments."""
    # The first optimizer of a process imports large parts of torch's compiler, which takes longer than training here.
    torch.optim.SGD([torch.zeros(1)])
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            main(**json.loads(line))
            os._exit(0)
        print(pid, flush=True)  # noqa: T201 -- the answer
        _, status = os.waitpid(pid, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)  # noqa: T201 -- the answer


if __name__ == "__main__":
    serve()
