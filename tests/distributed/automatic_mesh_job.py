"""Trains a plain model on all processes that were started: `automatic_mesh_job.py FOLDER TOTAL_STEPS`."""

import sys
from pathlib import Path

from torch import linspace, nn

import d9d


class Sine(d9d.TrainTask):
    def build_forward_inputs(self, ctx: d9d.BuildForwardInputsContext) -> d9d.BuildForwardInputsResult:
        return d9d.BuildForwardInputsResult(inputs={"input": ctx.batch})

    def compute_loss(self, ctx: d9d.ComputeLossContext) -> d9d.ComputeLossResult:
        return d9d.ComputeLossResult(loss=nn.functional.mse_loss(ctx.outputs, ctx.batch.sin()))


def main() -> None:
    folder, total_steps = Path(sys.argv[1]), int(sys.argv[2])
    d9d.TrainingConfigurator(
        config=d9d.TrainingConfig(
            total_steps=total_steps,
            global_batch_size=64,
            device="cpu",
            mesh=d9d.DeviceMeshParameters.auto(),
            checkpointing=d9d.CheckpointingConfig(folder=folder / "checkpoints"),
            reporting=d9d.ReportingConfig(period_steps=1, json_lines=folder / "metrics.jsonl"),
        ),
        task=Sine(),
        model_provider=lambda: nn.Sequential(nn.Linear(1, 64), nn.Tanh(), nn.Linear(64, 1)),
        dataset_provider=list(linspace(-3, 3, 4096).unsqueeze(1)),
    ).configure().train()


if __name__ == "__main__":
    d9d.launch(main)
