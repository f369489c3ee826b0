"""The job of the loop benchmark in other libraries, written as their documentation does it, without output."""

import logging
import tempfile
import warnings
from collections.abc import Callable
from typing import Any, TypeAlias

import torch
from loop_job import Batch, Job, loss_of

Loop: TypeAlias = Callable[[Job], None]


def ignite(job: Job) -> None:
    """Train with an Ignite engine."""
    from ignite.engine import Engine  # noqa: PLC0415 -- each loop imports its own

    optimizer = job.optimizer()
    job.model.train()

    def step(_: Any, batch: Batch) -> None:
        rows, targets = batch
        loss_of(job.model(rows), targets).backward()
        optimizer.step()
        optimizer.zero_grad()

    Engine(step).run(job.loader(), max_epochs=1)


def ignite_predict(job: Job) -> None:
    """Predict with an Ignite engine."""
    from ignite.engine import Engine  # noqa: PLC0415 -- each loop imports its own

    job.model.eval()

    def step(_: Any, batch: Batch) -> None:
        job.outputs.append(job.model(batch[0]))

    with torch.inference_mode():
        Engine(step).run(job.loader(), max_epochs=1)


def fabric(job: Job) -> None:
    """Train by hand with Lightning Fabric."""
    from lightning.fabric import Fabric  # noqa: PLC0415 -- each loop imports its own

    library = Fabric(accelerator="cpu", devices=1)
    model, optimizer = library.setup(job.model, job.optimizer())
    loader = library.setup_dataloaders(job.loader())
    model.train()
    for rows, targets in loader:
        library.backward(loss_of(model(rows), targets))
        optimizer.step()
        optimizer.zero_grad()


def accelerate(job: Job) -> None:
    """Train by hand with Accelerate."""
    from accelerate import Accelerator  # noqa: PLC0415 -- each loop imports its own

    library = Accelerator(cpu=True)
    model, optimizer, loader = library.prepare(job.model, job.optimizer(), job.loader())
    model.train()
    for rows, targets in loader:
        library.backward(loss_of(model(rows), targets))
        optimizer.step()
        optimizer.zero_grad()


def torchtnt(job: Job) -> None:
    """Train with TorchTNT's AutoUnit."""
    from torchtnt.framework.auto_unit import AutoUnit  # noqa: PLC0415 -- each loop imports its own
    from torchtnt.framework.train import train  # noqa: PLC0415 -- the same

    class Unit(AutoUnit[Batch]):
        def compute_loss(self, state: Any, data: Batch) -> tuple[torch.Tensor, torch.Tensor]:
            outputs = self.module(data[0])
            return loss_of(outputs, data[1]), outputs

        def configure_optimizers_and_lr_scheduler(self, module: Any) -> tuple[torch.optim.Optimizer, None]:
            return job.optimizer(), None

    train(Unit(module=job.model, device=torch.device("cpu")), job.loader(), max_epochs=1)


def lightning(job: Job) -> None:
    """Train with a Lightning trainer."""
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    from lightning.pytorch import LightningModule, Trainer  # noqa: PLC0415 -- each loop imports its own

    class Module(LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.model = job.model

        def training_step(self, batch: Batch, batch_idx: int) -> torch.Tensor:
            return loss_of(self.model(batch[0]), batch[1])

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return job.optimizer()

    Trainer(
        max_epochs=1,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    ).fit(Module(), job.loader())


def transformers(job: Job) -> None:
    """Train with the trainer of Transformers."""
    from transformers import Trainer, TrainingArguments  # noqa: PLC0415 -- each loop imports its own

    class Module(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = job.model

        def forward(self, rows: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
            outputs = self.model(rows)
            return {"loss": loss_of(outputs, labels), "logits": outputs}

    def collate(batch: Batch) -> dict[str, torch.Tensor]:
        return {"rows": batch[0], "labels": batch[1]}

    class Silent(Trainer):
        def get_train_dataloader(self) -> Any:
            return torch.utils.data.DataLoader(job.dataset, batch_sampler=job.order, collate_fn=collate)

    module, optimizer = Module(), job.optimizer()
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder,
            max_steps=job.num_steps,
            max_grad_norm=0.0,
            use_cpu=True,
            disable_tqdm=True,
            logging_strategy="no",
            save_strategy="no",
            report_to=[],
        )
        constant = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda _: 1.0)
        Silent(module, arguments, train_dataset=job.dataset, optimizers=(optimizer, constant)).train()


TRAINING: dict[str, Loop] = {
    "Ignite": ignite,
    "Fabric": fabric,
    "Accelerate": accelerate,
    "TorchTNT": torchtnt,
    "Lightning": lightning,
    "Transformers": transformers,
}
PREDICTION: dict[str, Loop] = {"Ignite": ignite_predict}


def hush() -> None:
    """Keep the libraries from printing between the results."""
    warnings.filterwarnings("ignore")
    for name in ("lightning", "lightning.pytorch", "lightning.fabric", "torchtnt", "ignite", "transformers"):
        logging.getLogger(name).setLevel(logging.ERROR)
