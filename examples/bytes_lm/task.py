"""The tasks of the language model: its loss, its load balancing, and its evaluation."""

import json
import logging
import math
from pathlib import Path
from typing import Any

import torch
from torch import distributed
from torch.nn import functional

from balancing import LoadBalancer
from corpus import HeldOutWindows
from d9d import (
    BuildForwardInputsContext,
    BuildForwardInputsResult,
    ComputeLossContext,
    ComputeLossResult,
    InferenceTask,
    InitializeModelStageContext,
    InitializeModelStageResult,
    ModelProvider,
    ParallelizeModelStageContext,
    ProcessOutputsContext,
    RegisterTaskEventsContext,
    TrainTask,
    shard_data_parallel,
    subscribe,
    subscribe_annotated,
)
from d9d.loop.event.catalogue.inference import (
    EVENT_INFERENCE_CONFIG_STARTED,
    EVENT_INFERENCE_FINISHED,
    EventInferenceFinishedContext,
)
from d9d.loop.event.catalogue.train import (
    EVENT_TRAIN_CONFIG_STARTED,
    EVENT_TRAIN_MODEL_STAGES_READY,
    EVENT_TRAIN_OPTIMIZER_STEP_POST,
    EVENT_TRAIN_STEP_POST,
    EventConfigurationStartedContext,
    EventModelStagesReadyContext,
    EventStepContext,
)
from model import Block, BytesLM, ModelConfig

logger = logging.getLogger(__name__)


class BytesLMProvider(ModelProvider):
    """Builds and shards the model."""

    def __init__(self, config: ModelConfig) -> None:
        self._config = config

    def initialize_model_stage(self, ctx: InitializeModelStageContext) -> InitializeModelStageResult:
        with torch.device("meta"):
            return InitializeModelStageResult(model=BytesLM(self._config, ctx.stage))

    def parallelize_model_stage(self, ctx: ParallelizeModelStageContext) -> None:
        assert isinstance(ctx.model, BytesLM)
        for mixture in ctx.model.mixtures.values():
            mixture.divide_experts(ctx.dist_context)
        shard_data_parallel(ctx.model, ctx.dist_context, blocks=Block)


def _model_inputs(ctx: BuildForwardInputsContext) -> BuildForwardInputsResult:
    return BuildForwardInputsResult(inputs={"inputs": ctx.batch["tokens"]})


class LanguageModelTask(TrainTask):
    """Trains on the next byte, balances the load of the experts, and reports it."""

    def __init__(self, *, report_period_steps: int | None, balancing_rate: float = 0.01) -> None:
        self._report_period_steps = report_period_steps
        self._balancing_rate = balancing_rate

    def register_events(self, ctx: RegisterTaskEventsContext) -> None:
        subscribe_annotated(ctx.event_bus, self)

    def build_forward_inputs(self, ctx: BuildForwardInputsContext) -> BuildForwardInputsResult:
        return _model_inputs(ctx)

    def compute_loss(self, ctx: ComputeLossContext) -> ComputeLossResult:
        targets = ctx.batch["targets"]
        loss = functional.cross_entropy(ctx.outputs.flatten(0, 1).float(), targets.flatten())
        return ComputeLossResult(loss=loss, loss_weight=targets.numel())

    @subscribe(EVENT_TRAIN_CONFIG_STARTED)
    def _note_processes(self, ctx: EventConfigurationStartedContext) -> None:
        self._dist_context = ctx.dist_context

    @subscribe(EVENT_TRAIN_MODEL_STAGES_READY)
    def _find_layers(self, ctx: EventModelStagesReadyContext) -> None:
        stages = [stage for stage in ctx.modules if isinstance(stage, BytesLM)]
        self._load_balancer = LoadBalancer(
            {index: layer for stage in stages for index, layer in stage.mixtures.items()},
            num_layers=stages[0].config.num_blocks,
            rate=self._balancing_rate,
            dist_context=self._dist_context,
        )

    @subscribe(EVENT_TRAIN_OPTIMIZER_STEP_POST)
    def _balance_load(self, ctx: EventStepContext) -> None:
        self._load_balancer.step()

    @subscribe(EVENT_TRAIN_STEP_POST)
    def _report_routing(self, ctx: EventStepContext) -> None:
        if not ctx.stepper.is_due(self._report_period_steps):
            return
        statistics = self._load_balancer.take_statistics()
        if not self._dist_context.is_main_process:
            return
        for index, (own_shares, balance) in enumerate(
            zip(statistics.shares.tolist(), statistics.balance.tolist(), strict=True)
        ):
            shares = " ".join(f"{share:4.0%}" for share in own_shares)
            logger.info(
                "step %d, MoE layer %d: experts take %s; balance %.3f",
                ctx.stepper.current_step + 1,
                index,
                shares,
                balance,
            )


class BitsPerByteTask(InferenceTask):
    """Computes the bits per byte of each held-out file, and writes them to a file at the end."""

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
        self._dist_context = ctx.dist_context
        self._nats = self._nats.to(ctx.dist_context.device)

    @subscribe(EVENT_INFERENCE_FINISHED)
    def _finish(self, ctx: EventInferenceFinishedContext) -> None:
        if self._dist_context.world_size > 1:
            # Each process has different windows, and in a pipeline only the last stage has outputs.
            distributed.all_reduce(self._nats, group=self._dist_context.mesh_for("loss").get_group("loss"))
        if self._dist_context.is_main_process:
            self._write_report()

    def _write_report(self) -> None:
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
