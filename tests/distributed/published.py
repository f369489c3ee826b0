"""Published models, small and with random weights, that are loaded, trained, resumed and exported on any mesh."""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn
from torch.distributed.tensor import Replicate
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, SequenceParallel, parallelize_module
from torch.nn import functional
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    GPT2Config,
    LlamaConfig,
    MixtralConfig,
    PreTrainedConfig,
    Qwen3Config,
)

from causal_lm import CausalLMProvider
from d9d import (
    BuildForwardInputsContext,
    BuildForwardInputsResult,
    CheckpointingConfig,
    ComputeLossContext,
    ComputeLossResult,
    DeviceMeshParameters,
    InitializeModelStageContext,
    InitializeModelStageResult,
    ModelProvider,
    OptimizerBuilder,
    ParallelizeModelStageContext,
    ReportingConfig,
    StagePosition,
    Trainer,
    TrainingConfig,
    TrainingConfigurator,
    TrainTask,
    WeightMapping,
    WeightRule,
    shard_data_parallel,
)
from d9d.loop.event.catalogue.train import EVENT_TRAIN_STEP_PRE, EventStepContext

NUM_TOKENS, WIDTH, LENGTH, NUM_STEPS = 64, 32, 16, 3
SIZES: dict[str, Any] = {
    "vocab_size": NUM_TOKENS,
    "hidden_size": WIDTH,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "bos_token_id": None,
    "eos_token_id": None,
}
EXPERTS = "batched_mm"
"""How transformers multiplies by experts; by default it does so in a way that the meta device has for bfloat16 only."""

ATTENTION: dict[str, Any] = {
    **{f"model.layers.*.self_attn.{name}_proj": ColwiseParallel() for name in "qkv"},
    "model.layers.*.self_attn.o_proj": RowwiseParallel(),
}
MLP: dict[str, Any] = {
    **{f"model.layers.*.mlp.{name}_proj": ColwiseParallel() for name in ("gate", "up")},
    "model.layers.*.mlp.down_proj": RowwiseParallel(),
}


class CausalLM(CausalLMProvider):
    """Provides a model of transformers, also for tensor parallelism.

    Args:
        base: The folder of the published model.
        plan: The layers to divide over processes.
    """

    def __init__(self, base: Path, plan: Mapping[str, Any]) -> None:
        super().__init__(base)
        self.config._experts_implementation = EXPERTS
        self._plan = plan

    def parallelize_model_stage(self, ctx: ParallelizeModelStageContext) -> None:
        split(ctx, self._plan)
        super().parallelize_model_stage(ctx)


def split(ctx: ParallelizeModelStageContext, plan: Mapping[str, Any]) -> None:
    if ctx.dist_context.mesh_parameters.tensor_parallel > 1:
        parallelize_module(ctx.model, ctx.dist_context.mesh_for("dense")["tensor_parallel"], dict(plan))


class Block(nn.Module):
    """A block of GPT-2 with a matrix each for queries, keys and values."""

    def __init__(self) -> None:
        super().__init__()
        self.norms = nn.ModuleList([nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)])
        self.query, self.key, self.value, self.out = (nn.Linear(WIDTH, WIDTH) for _ in range(4))
        self.up, self.down = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        normed = self.norms[0](features)
        query, key, value = (
            layer(normed).unflatten(-1, (-1, WIDTH // 4)).transpose(1, 2)
            for layer in (self.query, self.key, self.value)
        )
        mixed = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        features = features + self.out(mixed.transpose(1, 2).flatten(2))
        outputs: torch.Tensor = features + self.down(
            functional.gelu(self.up(self.norms[1](features)), approximate="tanh")
        )
        return outputs


class GPT2(nn.Module):
    """GPT-2, or a stage of it, written with other names and shapes."""

    def __init__(self, position: StagePosition) -> None:
        super().__init__()
        self.position = position
        if position.is_first:
            self.tokens, self.places = nn.Embedding(NUM_TOKENS, WIDTH), nn.Embedding(LENGTH, WIDTH)
        self.blocks = nn.ModuleDict({str(index): Block() for index in position.layers(2)})
        if position.is_last:
            self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, NUM_TOKENS, bias=False)
        if position.num_stages == 1:
            self.head.weight = self.tokens.weight

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        features = input_ids
        if self.position.is_first:
            features = self.tokens(input_ids) + self.places(torch.arange(LENGTH, device=input_ids.device))
        for block in self.blocks.values():
            features = block(features)
        outputs: torch.Tensor = self.head(self.norm(features)) if self.position.is_last else features
        return outputs


class ResNet(nn.Module):
    """A residual network, or a stage of it, with names of its own."""

    def __init__(self, position: StagePosition) -> None:
        super().__init__()
        self.position = position
        if position.is_first:
            self.stem, self.stem_norm = nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.blocks = nn.ModuleDict({str(index): nn.ModuleDict(residual()) for index in position.layers(2)})
        if position.is_last:
            self.classifier = nn.Linear(8, 4)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        features = functional.relu(self.stem_norm(self.stem(image))) if self.position.is_first else image
        for block in self.blocks.values():
            assert isinstance(block, nn.ModuleDict)
            inner = functional.relu(block["norm_a"](block["conv_a"](features)))
            features = functional.relu(features + block["norm_b"](block["conv_b"](inner)))
        outputs: torch.Tensor = self.classifier(features.mean((2, 3))) if self.position.is_last else features
        return outputs


def residual() -> dict[str, nn.Module]:
    convolutions = {f"conv_{side}": nn.Conv2d(8, 8, 3, padding=1, bias=False) for side in "ab"}
    return {**convolutions, **{f"norm_{side}": nn.BatchNorm2d(8) for side in "ab"}}


@dataclasses.dataclass
class Written(ModelProvider):
    """Provides a model that is written for d9d.

    Attributes:
        build: Makes a stage.
        plan: The layers to divide over processes.
        tied: The weights that its stages share.
    """

    build: Callable[[StagePosition], nn.Module]
    plan: Mapping[str, Any]
    tied: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def initialize_model_stage(self, ctx: InitializeModelStageContext) -> InitializeModelStageResult:
        with torch.device("meta"):
            return InitializeModelStageResult(model=self.build(ctx.stage), tied_weights=self.tied)

    def parallelize_model_stage(self, ctx: ParallelizeModelStageContext) -> None:
        split(ctx, self.plan)
        shard_data_parallel(ctx.model, ctx.dist_context)


class Task(TrainTask):
    """Cross-entropy, over tokens or images."""

    def build_forward_inputs(self, ctx: BuildForwardInputsContext) -> BuildForwardInputsResult:
        return BuildForwardInputsResult(inputs={key: ctx.batch[key] for key in ctx.batch if key != "targets"})

    def compute_loss(self, ctx: ComputeLossContext) -> ComputeLossResult:
        targets = ctx.batch["targets"].flatten()
        return ComputeLossResult(loss=functional.cross_entropy(logits_of(ctx.outputs).flatten(0, -2), targets))


def logits_of(outputs: Any) -> torch.Tensor:
    logits: torch.Tensor = outputs if isinstance(outputs, torch.Tensor) else outputs.logits
    return logits


@dataclasses.dataclass(frozen=True)
class Architecture:
    """A published model, and the model that is trained from it.

    Attributes:
        provider: Makes the provider from the folder of the published model.
        config: The configuration of transformers; `None` for the vision model.
        mapping: How the weights correspond.
        is_same_code: Whether the trained model is that of transformers, so that logits are equal bit for bit.
    """

    provider: Callable[[Path], ModelProvider]
    config: PreTrainedConfig | None
    mapping: WeightMapping = dataclasses.field(default_factory=WeightMapping)
    is_same_code: bool = True

    def publish(self, folder: Path) -> None:
        """Write a model with random weights, as its authors would."""
        torch.manual_seed(0)
        if self.config is not None:
            AutoModelForCausalLM.from_config(self.config).save_pretrained(folder)
        else:
            folder.mkdir()
            save_file(torchvision_layout().state_dict(), folder / "model.safetensors")

    def samples(self) -> list[dict[str, torch.Tensor]]:
        generator = torch.Generator().manual_seed(1)
        if self.config is None:
            images = torch.randn(32, 3, 6, 6, generator=generator)
            return [{"image": image, "targets": torch.tensor(index % 4)} for index, image in enumerate(images)]
        tokens = torch.randint(NUM_TOKENS, (32, LENGTH + 1), generator=generator)
        return [{"input_ids": row[:-1], "targets": row[1:]} for row in tokens]


class TorchvisionBlock(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.conv2, self.bn2 = nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        inner = functional.relu(self.bn1(self.conv1(features)))
        return functional.relu(features + self.bn2(self.conv2(inner)))


class TorchvisionResNet(nn.Module):
    """A residual network with the names of torchvision."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.layer1 = nn.Sequential(TorchvisionBlock())
        self.layer2 = nn.Sequential(TorchvisionBlock())
        self.fc = nn.Linear(8, 4)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        features = self.layer2(self.layer1(functional.relu(self.bn1(self.conv1(image)))))
        outputs: torch.Tensor = self.fc(features.mean((2, 3)))
        return outputs


def torchvision_layout() -> nn.Module:
    return TorchvisionResNet()


def _renamed(names: Mapping[str, str], **options: Any) -> list[WeightRule]:
    return [WeightRule(source, model, **options) for source, model in names.items()]


GPT2_MAPPING = WeightMapping(
    rules=[
        *_renamed({"transformer.wte.*": "tokens.*", "transformer.wpe.*": "places.*", "transformer.ln_f.*": "norm.*"}),
        *(
            WeightRule(
                f"transformer.h.*.attn.c_attn.{kind}",
                [f"blocks.*.{name}.{kind}" for name in ("query", "key", "value")],
                transpose=kind == "weight",
            )
            for kind in ("weight", "bias")
        ),
        *(
            WeightRule(f"transformer.h.*.{source}.{kind}", f"blocks.*.{model}.{kind}", transpose=kind == "weight")
            for source, model in {"attn.c_proj": "out", "mlp.c_fc": "up", "mlp.c_proj": "down"}.items()
            for kind in ("weight", "bias")
        ),
        *_renamed({f"transformer.h.*.ln_{index + 1}.*": f"blocks.*.norms.{index}.*" for index in range(2)}),
    ]
)
MIXTRAL_MAPPING = WeightMapping(
    rules=[
        WeightRule(
            [f"model.layers.*.block_sparse_moe.experts.#.w{number}.weight" for number in (1, 3)],
            "model.layers.*.mlp.experts.gate_up_proj",
        ),
        WeightRule("model.layers.*.block_sparse_moe.experts.#.w2.weight", "model.layers.*.mlp.experts.down_proj"),
        WeightRule("model.layers.*.block_sparse_moe.gate.weight", "model.layers.*.mlp.gate.weight"),
    ]
)
RESNET_MAPPING = WeightMapping(
    rules=[
        *_renamed({"conv1.*": "stem.*", "bn1.*": "stem_norm.*", "fc.*": "classifier.*"}),
        *_renamed(
            {
                f"layer{index + 1}.0.{source}{number}.*": f"blocks.{index}.{model}_{side}.*"
                for index in range(2)
                for source, model in {"conv": "conv", "bn": "norm"}.items()
                for number, side in {1: "a", 2: "b"}.items()
            }
        ),
    ]
)
LLAMA_PLAN = {**ATTENTION, **MLP}
# Each process has some of the heads, and these weights are shared by all heads.
QWEN3_PLAN: dict[str, Any] = {
    **LLAMA_PLAN,
    **{
        f"model.layers.*.self_attn.{name}_norm": SequenceParallel(sequence_dim=2, use_local_output=True)
        for name in "qk"
    },
}
GPT2_CONFIG = GPT2Config(
    vocab_size=NUM_TOKENS,
    n_embd=WIDTH,
    n_layer=2,
    n_head=4,
    n_positions=LENGTH,
    attn_pdrop=0.0,
    embd_pdrop=0.0,
    resid_pdrop=0.0,
    bos_token_id=None,
    eos_token_id=None,
)
GPT2_PLAN = {
    **{f"blocks.*.{name}": ColwiseParallel() for name in ("query", "key", "value", "up")},
    **{f"blocks.*.{name}": RowwiseParallel() for name in ("out", "down")},
}
ARCHITECTURES = {
    "llama": Architecture(lambda base: CausalLM(base, LLAMA_PLAN), LlamaConfig(**SIZES)),
    "tied llama": Architecture(lambda base: CausalLM(base, LLAMA_PLAN), LlamaConfig(**SIZES, tie_word_embeddings=True)),
    "qwen3": Architecture(
        lambda base: CausalLM(base, QWEN3_PLAN),
        Qwen3Config(**SIZES, head_dim=8, tie_word_embeddings=True),
    ),
    "mixtral": Architecture(
        lambda base: CausalLM(base, ATTENTION),
        MixtralConfig(**SIZES, num_local_experts=4, tie_word_embeddings=False),
        MIXTRAL_MAPPING,
    ),
    "gpt2": Architecture(
        lambda base: Written(GPT2, GPT2_PLAN, {"head.weight": "tokens.weight"}),
        GPT2_CONFIG,
        GPT2_MAPPING,
        is_same_code=False,
    ),
    "resnet": Architecture(
        lambda base: Written(ResNet, {"classifier": ColwiseParallel(output_layouts=Replicate())}), None, RESNET_MAPPING
    ),
}


class StoppedError(Exception):
    """Stops a run between two steps."""


def configure(name: str, mesh: Mapping[str, int], base: Path, folder: Path) -> Trainer:
    architecture = ARCHITECTURES[name]
    return TrainingConfigurator(
        config=TrainingConfig(
            total_steps=NUM_STEPS,
            global_batch_size=8,
            micro_batch_size=2,
            device="cpu",
            mesh=DeviceMeshParameters(**mesh),
            source_checkpoint=base,
            checkpointing=CheckpointingConfig(folder=folder / "checkpoints", period_steps=1),
            reporting=ReportingConfig(progress_bar=False, period_steps=1, json_lines=folder / "metrics.jsonl"),
        ),
        task=Task(),
        model_provider=architecture.provider(base),
        dataset_provider=architecture.samples(),
        optimizer_provider=OptimizerBuilder(torch.optim.SGD, lr=0.1),
        weight_mapping=architecture.mapping,
    ).configure()


def run(names: list[str], mesh: Mapping[str, int], published: Path, folder: Path) -> None:
    """Load each published model, train it, stop, resume, train on, and export it."""
    for name in names:
        trainer = configure(name, mesh, published / name, folder / name)

        def stop_in_last_step(ctx: EventStepContext) -> None:
            if ctx.stepper.is_last:
                raise StoppedError

        trainer.event_bus.subscribe(EVENT_TRAIN_STEP_PRE, stop_in_last_step)
        try:
            trainer.train()
        except StoppedError:
            pass
        else:
            raise AssertionError("the run was not stopped")
        resumed = configure(name, mesh, published / name, folder / name)
        resumed.train()
        config = ARCHITECTURES[name].config
        resumed.export(
            folder / name / "exported", config=AutoConfig.from_pretrained(published / name) if config else ()
        )
