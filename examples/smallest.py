"""The smallest training script: a network learns which points of a square lie inside of a circle.

Stop it whenever you like, and run it again: it goes on from its newest checkpoint.
"""

from pathlib import Path

import torch
from torch import nn
from torch.utils.data import TensorDataset

from d9d.loop import control
from d9d.loop.config import CheckpointingConfig, TrainingConfig
from d9d.loop.event import subscribe, subscribe_annotated
from d9d.loop.event.catalogue.train import EVENT_TRAIN_STEP_POST, EventStepContext
from d9d.loop.run import TrainingConfigurator

POINTS = torch.rand(4096, 2, generator=torch.Generator().manual_seed(0)) * 2 - 1
RADIUS = 0.8
IS_INSIDE = (POINTS.norm(dim=1) < RADIUS).float()


class Circle(control.TrainTask):
    """Trains with the binary cross-entropy, and says now and then how many of the step's points were told right."""

    def register_events(self, ctx: control.RegisterTaskEventsContext) -> None:
        subscribe_annotated(ctx.event_bus, self)

    def build_forward_inputs(self, ctx: control.BuildForwardInputsContext) -> control.BuildForwardInputsResult:
        points, _ = ctx.batch
        return control.BuildForwardInputsResult(inputs={"input": points})

    def compute_loss(self, ctx: control.ComputeLossContext) -> control.ComputeLossResult:
        scores, (_, is_inside) = ctx.outputs[:, 0], ctx.batch
        self.accuracy = ((scores > 0) == (is_inside > 0)).float().mean()
        return control.ComputeLossResult(loss=nn.functional.binary_cross_entropy_with_logits(scores, is_inside))

    @subscribe(EVENT_TRAIN_STEP_POST)
    def _on_step_post(self, ctx: EventStepContext) -> None:
        if ctx.stepper.is_due(100):
            print(f"step {ctx.stepper.current_step + 1}: {self.accuracy:.0%} of the points told right")


class Network(control.ModelProvider):
    """Brings one hidden layer."""

    def initialize_model_stage(self, ctx: control.InitializeModelStageContext) -> control.InitializeModelStageResult:
        return control.InitializeModelStageResult(model=nn.Sequential(nn.Linear(2, 64), nn.ReLU(), nn.Linear(64, 1)))


TrainingConfigurator(
    config=TrainingConfig(
        total_steps=500, global_batch_size=64, checkpointing=CheckpointingConfig(folder=Path("runs/smallest"))
    ),
    task=Circle(),
    model_provider=Network(),
    dataset_provider=lambda ctx: control.InitializeDatasetResult(dataset=TensorDataset(POINTS, IS_INSIDE)),
).configure().train()
