"""A small job with synthetic samples that the tests of the loops share."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import nn
from torch.utils.data import Dataset

from d9d.core.dist_context import DistributedContext
from d9d.loop.component import OptimizerBuilder
from d9d.loop.component.checkpoint.storage import Checkpoint
from d9d.loop.component.evaluation import Evaluation
from d9d.loop.component.optim import constant_lr
from d9d.loop.config import CheckpointingConfig, InferenceConfig, ReportingConfig, TrainingConfig
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
    LRSchedulerProvider,
    ModelProvider,
    OptimizerProvider,
    ProcessOutputsContext,
    RegisterTaskEventsContext,
    TrainTask,
)
from d9d.loop.event import EventBus
from d9d.loop.event.catalogue.train import EVENT_TRAIN_STEP_POST
from d9d.loop.run import Inference, InferenceConfigurator, Trainer, TrainingConfigurator

Sample: TypeAlias = dict[str, torch.Tensor]
Listen: TypeAlias = Callable[[EventBus], object]

NUM_FEATURES = 3
ADAMW = OptimizerBuilder(torch.optim.AdamW)
QUIET = ReportingConfig(progress_bar=False, period_steps=None)


class StoppedError(Exception):
    """Raised by tests to stop a run."""


def listen_to_nothing(bus: EventBus) -> None:
    """Subscribe to no event."""


class ToyDataset(Dataset[Sample]):
    """Random features `[feature]` with a target `[1]` that depends on them, and the index of the sample `[]`."""

    def __init__(self, num_samples: int = 12) -> None:
        generator = torch.Generator().manual_seed(0)
        self.features = torch.randn(num_samples, NUM_FEATURES, generator=generator)
        self.targets = self.features.sum(dim=1, keepdim=True)

    def __len__(self) -> int:
        return len(self.features)

    def __getitem__(self, index: int) -> Sample:
        return {"features": self.features[index], "target": self.targets[index], "index": torch.tensor(index)}


class ToyDatasetProvider:
    """Provides a dataset."""

    def __init__(self, dataset: Dataset[Any] | None = None) -> None:
        self.dataset = dataset if dataset is not None else ToyDataset()

    def __call__(self, ctx: InitializeDatasetContext, /) -> InitializeDatasetResult:
        return InitializeDatasetResult(dataset=self.dataset)


class ToyModelProvider(ModelProvider):
    """Provides two linear layers with dropout between them, and counts its calls."""

    def __init__(self, num_hidden: int = 4) -> None:
        self.num_built = 0
        self._num_hidden = num_hidden

    def initialize_model_stage(self, ctx: InitializeModelStageContext) -> InitializeModelStageResult:
        self.num_built += 1
        hidden = nn.Linear(NUM_FEATURES, self._num_hidden)
        return InitializeModelStageResult(
            model=nn.Sequential(hidden, nn.Dropout(0.2), nn.Linear(self._num_hidden, 1)),
        )


class ToyTask(TrainTask):
    """The mean squared error.

    Args:
        listen: Subscribes the handlers of a test.
    """

    def __init__(self, listen: Listen = listen_to_nothing) -> None:
        self._listen = listen

    def register_events(self, ctx: RegisterTaskEventsContext) -> None:
        self._listen(ctx.event_bus)

    def build_forward_inputs(self, ctx: BuildForwardInputsContext) -> BuildForwardInputsResult:
        return BuildForwardInputsResult(inputs={"input": ctx.batch["features"]})

    def compute_loss(self, ctx: ComputeLossContext) -> ComputeLossResult:
        return ComputeLossResult(loss=nn.functional.mse_loss(ctx.outputs, ctx.batch["target"]))


class ToyInferenceTask(InferenceTask):
    """Keeps the prediction for each sample in its state.

    Args:
        listen: Subscribes the handlers of a test.
    """

    def __init__(self, listen: Listen = listen_to_nothing) -> None:
        self._listen = listen
        self.indices: list[int] = []
        self.predictions: list[float] = []

    def register_events(self, ctx: RegisterTaskEventsContext) -> None:
        self._listen(ctx.event_bus)

    def build_forward_inputs(self, ctx: BuildForwardInputsContext) -> BuildForwardInputsResult:
        return BuildForwardInputsResult(inputs={"input": ctx.batch["features"]})

    def process_outputs(self, ctx: ProcessOutputsContext) -> None:
        self.indices += ctx.batch["index"].tolist()
        self.predictions += ctx.outputs[:, 0].tolist()

    def state_dict(self) -> dict[str, Any]:
        return {"indices": list(self.indices), "predictions": list(self.predictions)}

    def load_state_dict(self, state_dict: dict[str, Any], /) -> None:
        self.indices, self.predictions = state_dict["indices"], state_dict["predictions"]


def training_config(checkpointing: CheckpointingConfig | None = None, **settings: Any) -> TrainingConfig:
    """Make the settings of a short training run on the CPU: three steps of two micro-batches of two samples."""
    defaults: dict[str, Any] = {"total_steps": 3, "global_batch_size": 4, "micro_batch_size": 2, "device": "cpu"}
    return TrainingConfig(**{**defaults, "reporting": QUIET, "checkpointing": checkpointing, **settings})


def inference_config(checkpointing: CheckpointingConfig | None = None, **settings: Any) -> InferenceConfig:
    """Make the settings of a short inference run on the CPU: over 12 samples, three steps of two micro-batches."""
    defaults: dict[str, Any] = {"global_batch_size": 4, "micro_batch_size": 2, "device": "cpu"}
    return InferenceConfig(**{**defaults, "reporting": QUIET, "checkpointing": checkpointing, **settings})


def configure_training(
    config: TrainingConfig,
    *,
    task: TrainTask | None = None,
    model_provider: ModelProvider | None = None,
    dataset: Dataset[Any] | None = None,
    optimizer_provider: OptimizerProvider = ADAMW,
    lr_scheduler_provider: LRSchedulerProvider = constant_lr,
    evaluations: Mapping[str, Evaluation] | None = None,
) -> Trainer:
    """Configure training, with toy parts by default."""
    return TrainingConfigurator(
        config=config,
        task=task or ToyTask(),
        model_provider=model_provider or ToyModelProvider(),
        dataset_provider=ToyDatasetProvider(dataset),
        optimizer_provider=optimizer_provider,
        lr_scheduler_provider=lr_scheduler_provider,
        evaluations=evaluations,
    ).configure()


def configure_inference(
    config: InferenceConfig,
    *,
    task: InferenceTask | None = None,
    model_provider: ModelProvider | None = None,
    dataset: Dataset[Any] | None = None,
) -> Inference:
    """Configure inference, with toy parts by default."""
    return InferenceConfigurator(
        config=config,
        task=task or ToyInferenceTask(),
        model_provider=model_provider or ToyModelProvider(),
        dataset_provider=ToyDatasetProvider(dataset),
    ).configure()


def weights_of(model: nn.Module) -> dict[str, torch.Tensor]:
    """Copy the weights of a model."""
    return {name: weight.detach().clone() for name, weight in model.state_dict().items()}


def states_after_steps(trainer: Trainer) -> list[dict[str, torch.Tensor]]:
    """Train, and return the weights and the optimizer state after each step."""
    states: list[dict[str, torch.Tensor]] = []

    def keep(ctx: object) -> None:
        assert isinstance(trainer.optimizer, torch.optim.Optimizer)
        state = {
            f"{index}.{name}": value.clone()
            for index, values in trainer.optimizer.state_dict()["state"].items()
            for name, value in values.items()
            if value is not None
        }
        states.append({**weights_of(trainer.modules[0]), **state})

    trainer.event_bus.subscribe(EVENT_TRAIN_STEP_POST, keep)
    trainer.train()
    return states


def same_tensors(left: Mapping[str, torch.Tensor], right: Mapping[str, torch.Tensor]) -> bool:
    """Return whether tensors are equal, bit for bit."""
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


def steps_saved(folder: Path) -> list[int]:
    """List the number of completed steps of each checkpoint in a folder, oldest first."""
    return sorted(checkpoint.num_steps for checkpoint in Checkpoint.list_in(folder))


def cpu_context() -> DistributedContext:
    """Return the context of a process on the CPU."""
    return DistributedContext(device=torch.device("cpu"))
