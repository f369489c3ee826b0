"""Checks whole runs on an accelerator: exact resume from asynchronous saves, and steps that do not wait for the device.

Each run uses deterministic algorithms and bf16. The checks run with a plain model, with FSDP and with `torch.compile`.
"""

import argparse
import itertools
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn
from torch.distributed.fsdp import MixedPrecisionPolicy
from torch.distributed.tensor import DTensor

from d9d.core.parallel import shard_data_parallel
from d9d.loop import control
from d9d.loop.component import OptimizerBuilder
from d9d.loop.config import CheckpointingConfig, ReportingConfig, TrainingConfig
from d9d.loop.event import EventBus
from d9d.loop.event.catalogue import train
from d9d.loop.run import Trainer, TrainingConfigurator

NUM_STEPS = 20
SAVED_STEP = 10
# The first steps compile, load kernels and make the state of the optimizer; the last one waits for its checkpoint.
STEADY_STEPS = range(4, NUM_STEPS - 1)
KINDS = ("plain", "fsdp", "compile")
WIDTH = 256


class InterruptedRunError(Exception):
    """Ends a run, as a failure would."""


class _Task(control.TrainTask):
    """The mean squared error, with random numbers from dropout."""

    def build_forward_inputs(self, ctx: control.BuildForwardInputsContext) -> control.BuildForwardInputsResult:
        return control.BuildForwardInputsResult(inputs={"input": ctx.batch})

    def compute_loss(self, ctx: control.ComputeLossContext) -> control.ComputeLossResult:
        return control.ComputeLossResult(loss=nn.functional.mse_loss(ctx.outputs.float(), ctx.batch.sin()))


class _Model(control.ModelProvider):
    def __init__(self, kind: str, compiler: str) -> None:
        self._kind, self._compiler = kind, compiler

    def initialize_model_stage(self, ctx: control.InitializeModelStageContext) -> control.InitializeModelStageResult:
        torch.manual_seed(0)
        layers = [nn.Linear(WIDTH, WIDTH), nn.GELU(), nn.Dropout(0.1), nn.Linear(WIDTH, WIDTH)]
        return control.InitializeModelStageResult(model=nn.Sequential(*layers))

    def parallelize_model_stage(self, ctx: control.ParallelizeModelStageContext) -> None:
        if self._kind == "fsdp":
            policy = MixedPrecisionPolicy(torch.bfloat16, torch.float32)
            shard_data_parallel(ctx.model, ctx.dist_context, mixed_precision=policy)
        if self._kind == "compile":
            ctx.model.compile(backend=self._compiler)


def configure(
    device: torch.device, kind: str, *, policy: str = "skip", folder: Path | None = None, period_steps: int = SAVED_STEP
) -> Trainer:
    """Configure a run.

    Args:
        device: The device.
        kind: One of `KINDS`.
        policy: What happens to gradients that are not finite.
        folder: Where asynchronous checkpoints go, if there are any.
        period_steps: How often they are saved.
    """
    checkpointing = None
    if folder is not None:
        checkpointing = CheckpointingConfig(folder=folder, period_steps=period_steps, asynchronous=True)
    samples = torch.randn(NUM_STEPS * 64, WIDTH, generator=torch.Generator().manual_seed(0))
    return TrainingConfigurator(
        config=TrainingConfig.model_validate(
            {
                "total_steps": NUM_STEPS,
                "global_batch_size": 64,
                "micro_batch_size": 32,
                "device": str(device),
                "precision": "bf16-autocast",
                "non_finite_gradients": policy,
                "checkpointing": checkpointing,
                "reporting": ReportingConfig(progress_bar=False, period_steps=3, json_lines=None),
            }
        ),
        task=_Task(),
        # A CPU may have no C++ compiler, and is only here to try these checks out.
        model_provider=_Model(kind, "eager" if device.type == "cpu" else "inductor"),
        dataset_provider=list(samples),
        optimizer_provider=OptimizerBuilder(torch.optim.AdamW, lr=1e-3, fused=True),
    ).configure()


def weights_after(trainer: Trainer) -> dict[str, torch.Tensor]:
    """Train to the end, and return the weights."""
    trainer.train()
    return {
        name: (value.full_tensor() if isinstance(value, DTensor) else value).detach().cpu()
        for name, value in trainer.modules[0].state_dict().items()
    }


def check_resume(device: torch.device, kind: str, policy: str) -> None:
    """Compare a run with one that is interrupted after an asynchronous save and resumed from it."""
    expected = weights_after(configure(device, kind, policy=policy))
    with tempfile.TemporaryDirectory() as folder:
        interrupted = configure(device, kind, policy=policy, folder=Path(folder))
        interrupt_when_saved(interrupted.event_bus)
        try:
            interrupted.train()
        except InterruptedRunError:
            pass
        else:
            raise AssertionError("the run was not interrupted")
        resumed = configure(device, kind, policy=policy, folder=Path(folder))
        steps: list[int] = []
        resumed.event_bus.subscribe(
            train.EVENT_TRAIN_STEP_PRE, lambda moment: steps.append(moment.stepper.current_step)
        )
        found = weights_after(resumed)
    if steps != list(range(SAVED_STEP, NUM_STEPS)):
        raise AssertionError(f"the resumed run had the steps {steps}")
    differing = [name for name in expected if not torch.equal(expected[name], found[name])]
    if differing:
        raise AssertionError(f"the resumed run ended with other values of {', '.join(differing)}")


def interrupt_when_saved(bus: EventBus) -> None:
    """Raise in the first handler that hears of a checkpoint on disk."""

    def interrupt(moment: train.EventCheckpointContext) -> None:
        raise InterruptedRunError(f"after step {moment.step}")

    bus.subscribe(train.EVENT_TRAIN_CHECKPOINT_SAVED, interrupt)


def check_waits(device: torch.device, kind: str) -> None:
    """Let torch raise an error where a step makes the host wait for the device, also in steps with asynchronous saves.

    Only CUDA can do that; on other devices the run alone is checked.
    """
    with tempfile.TemporaryDirectory() as folder:
        trainer = configure(device, kind, folder=Path(folder), period_steps=6)
        if device.type == "cuda":
            trainer.event_bus.subscribe(
                train.EVENT_TRAIN_STEP_PRE,
                lambda moment: torch.cuda.set_sync_debug_mode(
                    "error" if moment.stepper.current_step in STEADY_STEPS else "default"
                ),
            )
        try:
            trainer.train()
        finally:
            if device.type == "cuda":
                torch.cuda.set_sync_debug_mode("default")


def main() -> int:
    """Run all checks, print each with its result, and fail if one of them does."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS, help="which models")
    options = parser.parse_args()
    device = torch.empty(0, device=options.device).device
    torch.use_deterministic_algorithms(mode=True)
    checks: dict[str, Callable[[], None]] = {}
    for kind, policy in itertools.product(options.kinds, ("skip", "stop")):
        checks[f"{kind}, non_finite_gradients={policy}: resumes bit for bit"] = (
            lambda kind=kind, policy=policy: check_resume(device, kind, policy)  # type: ignore[misc]
        )
    for kind in options.kinds:
        checks[f"{kind}: no step waits for the device"] = lambda kind=kind: check_waits(device, kind)  # type: ignore[misc]
    failed = 0
    for name, check in checks.items():
        started = time.perf_counter()
        try:
            check()
        except Exception as error:  # noqa: BLE001 -- printed, and the exit status says so; the other checks still run
            failed += 1
            traceback.print_exc()
            sys.stdout.write(f"FAILED {name}: {type(error).__name__}: {error}\n")
        else:
            sys.stdout.write(f"ok {name} ({time.perf_counter() - started:.1f} s)\n")
        sys.stdout.flush()
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
