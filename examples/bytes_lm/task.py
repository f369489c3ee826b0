"""What the loops compute for the language model, and what they report of it."""

import json
import logging
import math
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional

from corpus import HeldOutWindows
from d9d.loop.control import (
    BuildForwardInputsContext,
    BuildForwardInputsResult,
    ComputeLossContext,
    ComputeLossResult,
    InferenceTask,
    InitializeModelStageContext,
    InitializeModelStageResult,
    ModelProvider,
    ProcessOutputsContext,
    RegisterTaskEventsContext,
    TrainTask,
)
from d9d.loop.event import subscribe, subscribe_annotated
from d9d.loop.event.catalogue.inference import (
    EVENT_INFERENCE_CONFIG_STARTED,
    EVENT_INFERENCE_FINISHED,
    EventInferenceFinishedContext,
)
from d9d.loop.event.catalogue.train import (
    EVENT_TRAIN_MODEL_STAGES_READY,
    EVENT_TRAIN_OPTIMIZER_STEP_POST,
    EVENT_TRAIN_STEP_POST,
    EventConfigurationStartedContext,
    EventModelStagesReadyContext,
    EventStepContext,
)
from experts import MixtureOfExperts
from model import BytesLM, ModelConfig

logger = logging.getLogger(__name__)


class BytesLMProvider(ModelProvider):
    """Brings the model."""

    def __init__(self, config: ModelConfig) -> None:
        self._config = config

    def initialize_model_stage(self, ctx: InitializeModelStageContext) -> InitializeModelStageResult:
        return InitializeModelStageResult(model=BytesLM(self._config))


def _model_inputs(ctx: BuildForwardInputsContext) -> BuildForwardInputsResult:
    return BuildForwardInputsResult(inputs={"tokens": ctx.batch["tokens"]})


class LanguageModelTask(TrainTask):
    """Trains on the next byte, keeps the load of the experts even, and reports how they share the work."""

    def __init__(self, *, report_period_steps: int, balancing_rate: float = 0.01) -> None:
        self._report_period_steps = report_period_steps
        self._balancing_rate = balancing_rate
        self._expert_layers: list[MixtureOfExperts] = []

    def register_events(self, ctx: RegisterTaskEventsContext) -> None:
        subscribe_annotated(ctx.event_bus, self)

    def build_forward_inputs(self, ctx: BuildForwardInputsContext) -> BuildForwardInputsResult:
        return _model_inputs(ctx)

    def compute_loss(self, ctx: ComputeLossContext) -> ComputeLossResult:
        targets = ctx.batch["targets"]
        loss = functional.cross_entropy(ctx.outputs.flatten(0, 1).float(), targets.flatten())
        return ComputeLossResult(loss=loss, loss_weight=targets.numel())

    @subscribe(EVENT_TRAIN_MODEL_STAGES_READY)
    def _find_expert_layers(self, ctx: EventModelStagesReadyContext) -> None:
        self._expert_layers = [
            module for stage in ctx.modules for module in stage.modules() if isinstance(module, MixtureOfExperts)
        ]

    @subscribe(EVENT_TRAIN_OPTIMIZER_STEP_POST)
    def _balance_load(self, ctx: EventStepContext) -> None:
        for layer in self._expert_layers:
            layer.balance_load(self._balancing_rate)

    @subscribe(EVENT_TRAIN_STEP_POST)
    def _report_routing(self, ctx: EventStepContext) -> None:
        if not ctx.stepper.is_due(self._report_period_steps):
            return
        for index, layer in enumerate(self._expert_layers):
            statistics = layer.take_statistics()
            shares = " ".join(f"{share:4.0%}" for share in statistics.shares.tolist())
            logger.info(
                "step %d, MoE layer %d: experts take %s; balance %.3f",
                ctx.stepper.current_step + 1,
                index,
                shares,
                statistics.balance.item(),
            )


class BitsPerByteTask(InferenceTask):
    """Computes bits per byte for each held-out file, and writes them to a file when all are seen."""

    def __init__(self, held_out: HeldOutWindows, output: Path) -> None:
        self._held_out = held_out
        self._output = output
        self._nats = torch.zeros(len(held_out.files))

    def register_events(self, ctx: RegisterTaskEventsContext) -> None:
        subscribe_annotated(ctx.event_bus, self)

    def build_forward_inputs(self, ctx: BuildForwardInputsContext) -> BuildForwardInputsResult:
        return _model_inputs(ctx)

    def process_outputs(self, ctx: ProcessOutputsContext) -> None:
        targets = ctx.batch["targets"]
        nats = functional.cross_entropy(
            ctx.outputs.flatten(0, 1).float(), targets.flatten(), ignore_index=HeldOutWindows.IGNORED, reduction="none"
        )
        self._nats.index_add_(0, ctx.batch["file"], nats.view_as(targets).sum(1))

    def state_dict(self) -> dict[str, Any]:
        return {"nats": self._nats}

    def load_state_dict(self, state_dict: dict[str, Any], /) -> None:
        self._nats.copy_(state_dict["nats"])

    @subscribe(EVENT_INFERENCE_CONFIG_STARTED)
    def _move_to_device(self, ctx: EventConfigurationStartedContext) -> None:
        self._nats = self._nats.to(ctx.dist_context.device)

    @subscribe(EVENT_INFERENCE_FINISHED)
    def _write(self, ctx: EventInferenceFinishedContext) -> None:
        bits = (self._nats / math.log(2)).tolist()
        num_bytes = [len(file.content) for file in self._held_out.files]
        report = {
            "bits_per_byte": sum(bits) / sum(num_bytes),
            "num_bytes": sum(num_bytes),
            "files": {
                file.name: own_bits / own_bytes
                for file, own_bits, own_bytes in zip(self._held_out.files, bits, num_bytes, strict=True)
            },
        }
        self._output.parent.mkdir(parents=True, exist_ok=True)
        self._output.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
