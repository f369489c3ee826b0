"""A program that collates by itself may put arrays of NumPy into batches, which no device holds."""

from typing import Any

import numpy as np
import torch

from d9d.loop.control import BuildForwardInputsContext, BuildForwardInputsResult, TrainTask


def collate(samples: list[torch.Tensor]) -> dict[str, Any]:
    return {"tokens": torch.stack(samples), "lengths": np.array([len(sample) for sample in samples])}


class RightArrays(TrainTask):
    def build_forward_inputs(self, ctx: BuildForwardInputsContext) -> BuildForwardInputsResult:
        lengths = ctx.batch["lengths"]
        if (lengths == 0).any():
            raise ValueError(f"a sample is empty: {lengths.tolist()}")
        return BuildForwardInputsResult(inputs={"tokens": ctx.batch["tokens"][:, : int(lengths.max())]})


class WrongTensors(TrainTask):
    def build_forward_inputs(self, ctx: BuildForwardInputsContext) -> BuildForwardInputsResult:
        # E[d9d-host-sync]: "build_forward_inputs" calls "torch.unique" on a tensor in every step, so each step waits
        #   for the device: do it only every N steps, as under "if ctx.stepper.is_due(N):", or keep the tensor on the
        #   device with ".detach()"
        return BuildForwardInputsResult(inputs={"tokens": torch.unique(ctx.batch["tokens"])})
