"""One small training job, written for each library; a process runs one of them and measures its own start.

The job is a network of two layers, batches of eight, AdamW, on the CPU, without checkpoints, logs or progress bars. It
runs two steps. The network takes the measurement when its second pass begins: all of the first step is done by then,
whatever the library calls a step. All samples are the same one, so that their order does not matter, and the loss
after the first step is the same in each library.

Run as `python startup_job.py "by hand"`; prints one line of JSON.
"""

import json
import logging
import resource
import sys
import tempfile
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

NUM_FEATURES = 64
BATCH_SIZE = 8
NUM_STEPS = 2
LEARNING_RATE = 1e-3
WEIGHT_DECAY = 0.01


class Network(nn.Module):
    """Two layers, with the same weights in each process."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.layers = nn.Sequential(nn.Linear(NUM_FEATURES, NUM_FEATURES), nn.ReLU(), nn.Linear(NUM_FEATURES, 1))
        with torch.no_grad():
            for parameter in self.layers.parameters():
                parameter.normal_(std=0.1, generator=generator)
        self.num_passes = 0
        self.measured: dict[str, float] = {}

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """Predict a number for each row."""
        self.num_passes += 1
        outputs: torch.Tensor = self.layers(rows)
        if self.num_passes == NUM_STEPS:
            self.measured = measured_since_start() | {"loss": loss_of(outputs, torch.ones_like(outputs)).item()}
        return outputs


def measured_since_start() -> dict[str, float]:
    """Return the CPU seconds of this process and its children since it started, and its peak memory in MiB."""
    usages = [resource.getrusage(each) for each in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return {"seconds": sum(each.ru_utime + each.ru_stime for each in usages), "mib": usages[0].ru_maxrss / 1024}


def dataset() -> TensorDataset:
    """Return the samples of the job."""
    row = torch.linspace(-1, 1, NUM_FEATURES)
    num_samples = NUM_STEPS * BATCH_SIZE
    return TensorDataset(row.repeat(num_samples, 1), torch.ones(num_samples, 1))


def loader() -> "DataLoader[tuple[torch.Tensor, ...]]":
    """Return a data loader over them."""
    return DataLoader(dataset(), batch_size=BATCH_SIZE)


def loss_of(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Return the loss of a batch."""
    return nn.functional.mse_loss(outputs, targets)


def adamw(model: nn.Module) -> torch.optim.Optimizer:
    """Return the optimizer, for the libraries that are given one."""
    return torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)


def by_hand(model: Network) -> None:
    """Train without any library: the reference."""
    optimizer = adamw(model)
    for rows, targets in loader():
        loss_of(model(rows), targets).backward()
        optimizer.step()
        optimizer.zero_grad()


def d9d(model: Network) -> None:
    """Train in the loop of this project."""
    from d9d import (  # noqa: PLC0415 -- each process imports one library
        BuildForwardInputsContext,
        BuildForwardInputsResult,
        ComputeLossContext,
        ComputeLossResult,
        OptimizerBuilder,
        ReportingConfig,
        TrainingConfig,
        TrainingConfigurator,
        TrainTask,
    )

    class Task(TrainTask):
        def build_forward_inputs(self, ctx: BuildForwardInputsContext) -> BuildForwardInputsResult:
            return BuildForwardInputsResult(inputs={"rows": ctx.batch[0]})

        def compute_loss(self, ctx: ComputeLossContext) -> ComputeLossResult:
            return ComputeLossResult(loss=loss_of(ctx.outputs, ctx.batch[1]))

    TrainingConfigurator(
        config=TrainingConfig(
            total_steps=NUM_STEPS,
            global_batch_size=BATCH_SIZE,
            device="cpu",
            max_gradient_norm=None,
            reporting=ReportingConfig(progress_bar=False, period_steps=None),
        ),
        task=Task(),
        model_provider=lambda: model,
        dataset_provider=dataset(),
        optimizer_provider=OptimizerBuilder(torch.optim.AdamW, lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY),
    ).configure().train()


def ignite(model: Network) -> None:
    """Train with an Ignite engine."""
    from ignite.engine import Engine  # noqa: PLC0415 -- each process imports one library

    optimizer = adamw(model)

    def step(_: Any, batch: tuple[torch.Tensor, torch.Tensor]) -> None:
        rows, targets = batch
        loss_of(model(rows), targets).backward()
        optimizer.step()
        optimizer.zero_grad()

    Engine(step).run(loader(), max_epochs=1)


def accelerate(model: Network) -> None:
    """Train by hand with Accelerate."""
    from accelerate import Accelerator  # noqa: PLC0415 -- each process imports one library

    library = Accelerator(cpu=True)
    prepared, optimizer, batches = library.prepare(model, adamw(model), loader())
    for rows, targets in batches:
        library.backward(loss_of(prepared(rows), targets))
        optimizer.step()
        optimizer.zero_grad()


def lightning(model: Network) -> None:
    """Train with a Lightning trainer."""
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    from lightning.pytorch import LightningModule, Trainer  # noqa: PLC0415 -- each process imports one library

    class Module(LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def training_step(self, batch: tuple[torch.Tensor, torch.Tensor], batch_idx: int) -> torch.Tensor:
            return loss_of(self.model(batch[0]), batch[1])

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return adamw(self.model)

    Trainer(
        max_steps=NUM_STEPS,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    ).fit(Module(), loader())


def transformers(model: Network) -> None:
    """Train with the trainer of Transformers."""
    from transformers import Trainer, TrainingArguments  # noqa: PLC0415 -- each process imports one library

    class Module(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, rows: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
            outputs = self.model(rows)
            return {"loss": loss_of(outputs, labels), "logits": outputs}

    def collate(samples: list[tuple[torch.Tensor, torch.Tensor]]) -> dict[str, torch.Tensor]:
        rows, labels = zip(*samples, strict=True)
        return {"rows": torch.stack(rows), "labels": torch.stack(labels)}

    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder,
            max_steps=NUM_STEPS,
            per_device_train_batch_size=BATCH_SIZE,
            learning_rate=LEARNING_RATE,
            weight_decay=WEIGHT_DECAY,
            lr_scheduler_type="constant",
            max_grad_norm=0.0,
            use_cpu=True,
            disable_tqdm=True,
            logging_strategy="no",
            save_strategy="no",
            report_to=[],
        )
        Trainer(Module(), arguments, train_dataset=dataset(), data_collator=collate).train()


JOBS: dict[str, Callable[[Network], None]] = {
    "by hand": by_hand,
    "d9d": d9d,
    "Accelerate": accelerate,
    "Ignite": ignite,
    "Lightning": lightning,
    "Transformers": transformers,
}


def main() -> int:
    """Run one job, and print what its first step took."""
    warnings.filterwarnings("ignore")
    model = Network()
    JOBS[sys.argv[1]](model)
    if model.num_passes != NUM_STEPS:
        sys.stderr.write(f"the model ran {model.num_passes} times instead of {NUM_STEPS}\n")
        return 1
    sys.stdout.write(json.dumps(model.measured) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
