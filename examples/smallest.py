"""Learns the sine function. Stop it and run it again: it resumes from its newest checkpoint."""

from pathlib import Path

from torch import linspace, nn

import d9d

CHECKPOINTS = d9d.CheckpointingConfig(folder=Path("runs/smallest"), period_steps=100)


class Sine(d9d.TrainTask):
    def build_forward_inputs(self, ctx: d9d.BuildForwardInputsContext) -> d9d.BuildForwardInputsResult:
        return d9d.BuildForwardInputsResult(inputs={"input": ctx.batch})

    def compute_loss(self, ctx: d9d.ComputeLossContext) -> d9d.ComputeLossResult:
        return d9d.ComputeLossResult(loss=nn.functional.mse_loss(ctx.outputs, ctx.batch.sin()))


d9d.TrainingConfigurator(
    config=d9d.TrainingConfig(total_steps=500, global_batch_size=64, checkpointing=CHECKPOINTS),
    task=Sine(),
    model_provider=lambda: nn.Sequential(nn.Linear(1, 64), nn.Tanh(), nn.Linear(64, 1)),
    dataset_provider=list(linspace(-3, 3, 4096).unsqueeze(1)),
).configure().train()
