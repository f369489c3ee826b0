"""What the programs share: a small model, its data, and the task that trains it."""

from torch import linspace, nn

from d9d import (
    BuildForwardInputsContext,
    BuildForwardInputsResult,
    ComputeLossContext,
    ComputeLossResult,
    TrainingConfig,
    TrainTask,
)

CONFIG = TrainingConfig(total_steps=4, global_batch_size=8)
SAMPLES = list(linspace(-3, 3, 32).unsqueeze(1))


def build_model() -> nn.Module:
    return nn.Sequential(nn.Linear(1, 8), nn.Tanh(), nn.Linear(8, 1))


class Sine(TrainTask):
    def build_forward_inputs(self, ctx: BuildForwardInputsContext) -> BuildForwardInputsResult:
        return BuildForwardInputsResult(inputs={"input": ctx.batch})

    def compute_loss(self, ctx: ComputeLossContext) -> ComputeLossResult:
        return ComputeLossResult(loss=nn.functional.mse_loss(ctx.outputs, ctx.batch.sin()))
