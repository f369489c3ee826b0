"""A small job in which each setting of a training run is changed once between two runs."""

import dataclasses
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import distributed, nn

from d9d.core.parallel import shard_data_parallel
from d9d.loop.component import LRSchedule, OptimizerBuilder, ParameterGroup
from d9d.loop.component.checkpoint.files import CheckpointError
from d9d.loop.config import CheckpointingConfig, DeviceMeshParameters, ReportingConfig, TrainingConfig
from d9d.loop.control import (
    InitializeModelStageContext,
    InitializeModelStageResult,
    ModelProvider,
    ParallelizeModelStageContext,
    TrainTask,
)
from d9d.loop.run import TrainingConfigurator

NUM_FEATURES = 4


class Regression(nn.Module):
    """Returns its loss."""

    def __init__(self, num_hidden: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(NUM_FEATURES, num_hidden), nn.Dropout(0.2), nn.Linear(num_hidden, 1))

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        loss: torch.Tensor = self.layers(features).square().mean()
        return loss


class Provider(ModelProvider):
    """Shards the model over the processes of the job."""

    def __init__(self, num_hidden: int = 4) -> None:
        self._num_hidden = num_hidden

    def initialize_model_stage(self, ctx: InitializeModelStageContext) -> InitializeModelStageResult:
        return InitializeModelStageResult(model=Regression(self._num_hidden))

    def parallelize_model_stage(self, ctx: ParallelizeModelStageContext) -> None:
        if ctx.dist_context.world_size > 1:
            shard_data_parallel(ctx.model, ctx.dist_context)


def samples(num_samples: int) -> list[dict[str, torch.Tensor]]:
    """Make a dataset."""
    generator = torch.Generator().manual_seed(num_samples)
    return [{"features": torch.randn(NUM_FEATURES, generator=generator)} for _ in range(num_samples)]


@dataclasses.dataclass(frozen=True)
class Changed:
    """What differs in the second run.

    Attributes:
        settings: Its settings.
        parts: Other parts than those of the first run.
        name: The name in the log and in `allow`, if it is not that of the setting.
    """

    settings: dict[str, Any] = dataclasses.field(default_factory=dict)
    parts: dict[str, Any] = dataclasses.field(default_factory=dict)
    name: str = ""


MATRICES = ParameterGroup(lambda name, parameter: parameter.ndim > 1, lr=0.1)


def changes_in(folder: Path) -> dict[str, Changed]:
    """Return a change of each setting of the table."""
    return {
        "`total_steps`": Changed({"total_steps": 5}),
        "`max_gradient_norm`": Changed({"max_gradient_norm": 0.5}),
        "`gradient_dtype`": Changed({"gradient_dtype": "fp32"}),
        "`micro_batch_size`": Changed({"micro_batch_size": 1}),
        "`precision`": Changed({"precision": "bf16-autocast"}),
        "options of the optimizer": Changed(
            parts={"optimizer_provider": OptimizerBuilder(torch.optim.AdamW, weight_decay=0.5)},
            name="optimizer/param_groups/0/weight_decay",
        ),
        "learning rate schedule": Changed(
            parts={"lr_scheduler_provider": LRSchedule.cosine()}, name="lr_scheduler_class"
        ),
        "`seed`": Changed({"seed": 3}),
        "`global_batch_size`": Changed({"global_batch_size": 8}),
        "size of the dataset": Changed(parts={"dataset_provider": samples(20)}, name="num_samples"),
        "shapes and names of the model": Changed(parts={"model_provider": Provider(num_hidden=6)}),
        "class of the optimizer": Changed(parts={"optimizer_provider": OptimizerBuilder(torch.optim.SGD, lr=0.1)}),
        "number of parameters in a group": Changed(
            parts={"optimizer_provider": OptimizerBuilder(torch.optim.AdamW, groups=[MATRICES])}
        ),
        "`pipeline`": Changed({"pipeline": {"schedule": "gpipe"}}),
        "`device`": Changed({"device": "cpu:0"}),
        "`timeouts`": Changed({"timeouts": {"step_seconds": 60.0}}),
        "`data_loading`": Changed({"data_loading": {"num_workers": 1}}),
        "`checkpointing`": Changed(
            {"checkpointing": CheckpointingConfig(folder=folder, period_steps=3, num_to_keep=9)}
        ),
        "`resume`": Changed({"resume": {"mode": "must"}}),
        "`reporting`": Changed({"reporting": {"progress_bar": False, "json_lines": None, "period_steps": 1}}),
        "`garbage_collection_period_steps`": Changed({"garbage_collection_period_steps": 1}),
        "`profiling`": Changed({"profiling": {"folder": folder.parent / "traces", "wait_steps": 0}}),
        "`non_finite_gradients`": Changed({"non_finite_gradients": "skip"}),
        "`source_checkpoint`": Changed({"source_checkpoint": folder / "step-1"}),
    }


def run(folder: Path, changed: Changed, **resume: Any) -> None:
    """Train: two steps without changes, and all steps with some."""
    num_ranks = distributed.get_world_size() if distributed.is_initialized() else 1
    settings: dict[str, Any] = {
        "total_steps": 4,
        "global_batch_size": 4,
        "micro_batch_size": 2,
        "device": "cpu",
        "mesh": DeviceMeshParameters(data_parallel_shard=num_ranks),
        "checkpointing": CheckpointingConfig(folder=folder, period_steps=1, num_to_keep=9),
        "reporting": ReportingConfig(progress_bar=False, json_lines=None),
        **changed.settings,
        **({"resume": resume} if resume else {}),
    }
    parts: dict[str, Any] = {
        "model_provider": Provider(),
        "dataset_provider": samples(12),
        "optimizer_provider": OptimizerBuilder(torch.optim.AdamW),
        **changed.parts,
    }
    trainer = TrainingConfigurator(config=TrainingConfig(**settings), task=TrainTask(), **parts).configure()
    for ctx in trainer.steps():
        if not (changed.settings or changed.parts) and ctx.stepper.current_step == 2:
            break


def outcome_of(folder: Path, setting: str, log: Callable[[], list[str]]) -> str:
    """Change a setting between two runs, and return its class as it shows."""
    changed = changes_in(folder)[setting]
    run(folder, Changed())
    name = changed.name or setting.strip("`")
    try:
        run(folder, changed)
    except CheckpointError as error:
        if "reads its data in another order" not in str(error):
            return "identity" if "is a checkpoint of another job" in str(error) else str(error)
        run(folder, changed, allow=[name])
        return "data order"
    return "adopted" if any(line.startswith(f"adopted {name}=") for line in log()) else "free"


def outcomes_on_ranks(folder: Path) -> dict[str, str]:
    lines: list[str] = []

    class Lines(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(record.getMessage())

    logging.getLogger("d9d").addHandler(Lines())
    logging.getLogger("d9d").setLevel("INFO")
    found = {}
    for number, setting in enumerate(changes_in(folder)):
        lines.clear()
        own = folder / str(number) / "run"
        # Rank 0 alone logs what is adopted.
        found[setting] = outcome_of(own, setting, lines.copy)
    return found
