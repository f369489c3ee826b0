"""A training job, and the parallel layouts in which it must give the same result."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.distributed.tensor import DTensor
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module
from torch.utils.data import Dataset

from d9d.core.dist_context import DeviceMeshParameters
from d9d.core.parallel import shard_data_parallel
from d9d.core.pipeline import StagePosition
from d9d.loop.component import OptimizerBuilder
from d9d.loop.component.evaluation import Evaluation
from d9d.loop.config import PipelineConfig, ReportingConfig, TrainingConfig
from d9d.loop.control import (
    BuildForwardInputsContext,
    BuildForwardInputsResult,
    ComputeLossContext,
    ComputeLossResult,
    InitializeDatasetContext,
    InitializeDatasetResult,
    InitializeModelStageContext,
    InitializeModelStageResult,
    ModelProvider,
    OptimizerProvider,
    ParallelizeModelStageContext,
    RegisterTaskEventsContext,
    TrainTask,
)
from d9d.loop.event import Event, subscribe, subscribe_annotated
from d9d.loop.event.catalogue import train
from d9d.loop.run import Trainer, TrainingConfigurator

NUM_FEATURES, WIDTH, NUM_CLASSES, NUM_LAYERS = 6, 16, 5, 8
NUM_STEPS = 20
# With this learning rate the weights change a lot in a few steps.
ADAMW = OptimizerBuilder(torch.optim.AdamW, lr=0.01)
QUIET = ReportingConfig(progress_bar=False, period_steps=None)


class Layer(nn.Module):
    """A residual block of two linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.Linear(WIDTH, 2 * WIDTH)
        self.down = nn.Linear(2 * WIDTH, WIDTH)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Transform features [batch, width]."""
        mixed: torch.Tensor = features + self.down(nn.functional.gelu(self.up(features)))
        return mixed


class Stage(nn.Module):
    """The layers of a stage, named as in the whole model; the first stage also has `entry`, the last `exit`."""

    def __init__(self, position: StagePosition) -> None:
        super().__init__()
        self.position = position
        self.entry = nn.Linear(NUM_FEATURES, WIDTH) if position.is_first else nn.Identity()
        self.layers = nn.ModuleDict({str(index): Layer() for index in position.layers(NUM_LAYERS)})
        self.exit = nn.Linear(WIDTH, NUM_CLASSES) if position.is_last else nn.Identity()
        self.num_passes = 0

    def blocks(self) -> list[nn.Module]:
        """Return the layers."""
        return list(self.layers.children())

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Transform features [batch, feature] of the data or the previous stage; the last stage returns logits."""
        self.num_passes += 1
        features = self.entry(features)
        for layer in self.blocks():
            features = layer(features)
        logits: torch.Tensor = self.exit(features)
        return logits


class Samples(Dataset[dict[str, torch.Tensor]]):
    """Random features, each with a class; one in five has the class -100, which the loss ignores."""

    def __init__(self, num_samples: int = 100) -> None:
        generator = torch.Generator().manual_seed(0)
        self.features = torch.randn(num_samples, NUM_FEATURES, generator=generator)
        self.classes = self.features[:, :NUM_CLASSES].argmax(dim=1)
        self.classes[torch.rand(num_samples, generator=generator) < 0.2] = -100

    def __len__(self) -> int:
        return len(self.features)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {"features": self.features[index], "class": self.classes[index]}


def plain(ctx: ParallelizeModelStageContext) -> None:
    """Leave the stage as it is."""


def sharded(ctx: ParallelizeModelStageContext) -> None:
    """Shard each layer and the stage over all data-parallel dimensions."""
    shard_data_parallel(ctx.model, ctx.dist_context, blocks=Layer)


def tensor_parallel(ctx: ParallelizeModelStageContext) -> None:
    """Apply tensor parallelism to the linear layers of each block."""
    assert isinstance(ctx.model, Stage)
    if ctx.dist_context.mesh_parameters.tensor_parallel == 1:
        return
    mesh = ctx.dist_context.mesh_for("dense")["tensor_parallel"]
    for layer in ctx.model.blocks():
        parallelize_module(layer, mesh, {"up": ColwiseParallel(), "down": RowwiseParallel()})


@dataclasses.dataclass(frozen=True)
class Layout:
    """A parallel layout of the job.

    Attributes:
        mesh: The mesh, by the number of processes.
        parallelize: Applies the parallelism to a stage.
        schedule: The pipeline schedule.
    """

    mesh: dict[int, DeviceMeshParameters]
    parallelize: Callable[[ParallelizeModelStageContext], None] = plain
    schedule: str = "1f1b"


def _pipeline(num_shards: int = 1) -> dict[int, DeviceMeshParameters]:
    return {
        2: DeviceMeshParameters(pipeline_parallel=2),
        4: DeviceMeshParameters(pipeline_parallel=4 // num_shards, data_parallel_shard=num_shards),
    }


LAYOUTS = {
    "plain": Layout({}),
    "fsdp": Layout({n: DeviceMeshParameters(data_parallel_shard=n) for n in (2, 4)}, sharded),
    "hsdp": Layout(
        {n: DeviceMeshParameters(data_parallel_replicate=2, data_parallel_shard=n // 2) for n in (2, 4)}, sharded
    ),
    "replicate": Layout({n: DeviceMeshParameters(data_parallel_replicate=n) for n in (2, 4)}, sharded),
    "tensor": Layout({n: DeviceMeshParameters(tensor_parallel=n) for n in (2, 4)}, tensor_parallel),
    "context": Layout(
        {n: DeviceMeshParameters(context_parallel=2, data_parallel_shard=n // 2) for n in (2, 4)}, sharded
    ),
    "gpipe": Layout(_pipeline(), schedule="gpipe"),
    "1f1b": Layout(_pipeline(), schedule="1f1b"),
    "interleaved": Layout(_pipeline(), schedule="interleaved_1f1b"),
    "interleaved-zb": Layout(_pipeline(), schedule="interleaved_zero_bubble"),
    "zbv": Layout(_pipeline(), schedule="zbv"),
    "dualpipev": Layout(_pipeline(), schedule="dualpipev"),
    "1f1b+fsdp": Layout(_pipeline(2), sharded, "1f1b"),
    "zbv+fsdp": Layout(_pipeline(2), sharded, "zbv"),
}


class Provider(ModelProvider):
    """Builds the stages of a layout."""

    stage_kind: type[Stage] = Stage

    def __init__(self, layout: Layout) -> None:
        self._layout = layout

    def initialize_model_stage(self, ctx: InitializeModelStageContext) -> InitializeModelStageResult:
        with torch.device("meta"):
            return InitializeModelStageResult(model=self.stage_kind(ctx.stage))

    def parallelize_model_stage(self, ctx: ParallelizeModelStageContext) -> None:
        self._layout.parallelize(ctx)


class ClassifyTask(TrainTask):
    """The cross entropy over the samples that have a class; records the trace of events."""

    def __init__(self) -> None:
        self.trace: list[str] = []
        self.num_losses = 0
        self._part, self._num_parts = 0, 1

    def register_events(self, ctx: RegisterTaskEventsContext) -> None:
        subscribe_annotated(ctx.event_bus, self)
        for name in train.__all__:
            if isinstance(event := getattr(train, name), Event):
                ctx.event_bus.subscribe(event, self._noting(event.id))

    def _noting(self, event_id: str) -> Callable[[object], None]:
        return lambda ctx: self.trace.append(event_id)

    @subscribe(train.EVENT_TRAIN_CONFIG_STARTED)
    def _find_part(self, ctx: train.EventConfigurationStartedContext) -> None:
        self._num_parts = ctx.dist_context.mesh_parameters.context_parallel
        if self._num_parts > 1:
            self._part = ctx.dist_context.mesh_for("batch").get_local_rank("context_parallel")

    def own(self, tensor: torch.Tensor) -> torch.Tensor:
        """Return this rank's part of a batch under context parallelism, which splits by sample in this job."""
        return tensor.tensor_split(self._num_parts)[self._part]

    def build_forward_inputs(self, ctx: BuildForwardInputsContext) -> BuildForwardInputsResult:
        return BuildForwardInputsResult(inputs={"features": self.own(ctx.batch["features"])})

    def compute_loss(self, ctx: ComputeLossContext) -> ComputeLossResult:
        self.num_losses += 1
        classes = self.own(ctx.batch["class"])
        loss = nn.functional.cross_entropy(ctx.outputs, classes)
        return ComputeLossResult(loss=loss, loss_weight=(classes >= 0).sum())


def provide_dataset(ctx: InitializeDatasetContext) -> InitializeDatasetResult:
    """Provide the data."""
    return InitializeDatasetResult(dataset=Samples())


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What one process recorded of a run.

    Attributes:
        losses: The loss of each step.
        weights: The full weights of its stages, by name.
        trace: The ids of all triggered events.
        num_losses: The number of losses that the task computed.
        num_passes: The number of forward passes of each of its stages.
    """

    losses: list[float]
    weights: dict[str, torch.Tensor]
    trace: list[str]
    num_losses: int
    num_passes: list[int]


def configure(
    layout: Layout,
    num_ranks: int,
    task: TrainTask,
    *,
    provider: type[Provider] = Provider,
    optimizer: OptimizerProvider = ADAMW,
    evaluations: Mapping[str, Evaluation] | None = None,
    subscribers: Sequence[object] = (),
    **settings: Any,
) -> Trainer:
    """Configure the job in a layout; on one rank all layouts are the same."""
    pipeline = {name: settings.pop(name) for name in PipelineConfig.model_fields if name in settings}
    defaults: dict[str, Any] = {
        "total_steps": NUM_STEPS,
        "global_batch_size": 32,
        "micro_batch_size": 2,
        "reporting": QUIET,
    }
    return TrainingConfigurator(
        config=TrainingConfig(
            **{**defaults, **settings},
            device="cpu",
            mesh=DeviceMeshParameters() if num_ranks == 1 else layout.mesh[num_ranks],
            pipeline=PipelineConfig.model_validate({"schedule": layout.schedule, **pipeline}),
        ),
        task=task,
        model_provider=provider(layout),
        dataset_provider=provide_dataset,
        optimizer_provider=optimizer,
        evaluations=evaluations,
        subscribers=subscribers,
    ).configure()


def train_in(name: str, num_ranks: int, num_steps: int = NUM_STEPS) -> Outcome:
    """Run the job in a layout, as one of its processes."""
    task = ClassifyTask()
    trainer = configure(LAYOUTS[name], num_ranks, task, total_steps=num_steps)
    losses = record_losses(trainer)
    trainer.train()
    return Outcome(
        losses=[loss.item() for loss in losses],
        weights=full_weights(trainer),
        trace=task.trace,
        num_losses=task.num_losses,
        num_passes=[module.num_passes for module in trainer.modules if isinstance(module, Stage)],
    )


def record_losses(trainer: Trainer) -> list[torch.Tensor]:
    """Record the loss of each step."""
    losses: list[torch.Tensor] = []
    reduce = trainer._gradients.reduce

    def reduce_and_note(**settings: bool) -> tuple[torch.Tensor, torch.Tensor | None]:
        loss, norm = reduce(**settings)
        losses.append(loss)
        return loss, norm

    trainer._gradients.reduce = reduce_and_note  # type: ignore[method-assign]
    return losses


def full_weights(trainer: Trainer) -> dict[str, torch.Tensor]:
    """Gather the full weights of the stages of this process."""
    return {
        name: (weight.full_tensor() if isinstance(weight, DTensor) else weight).detach().clone()
        for module in trainer.modules
        for name, weight in module.state_dict().items()
    }
