"""A causal language model of Hugging Face: whole or as stages of a pipeline, in full or with LoRA."""

from pathlib import Path

import torch
from peft import LoraConfig, inject_adapter_in_model
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from d9d import (
    BuildForwardInputsContext,
    BuildForwardInputsResult,
    ComputeLossContext,
    ComputeLossResult,
    InitializeModelStageContext,
    InitializeModelStageResult,
    InitializeModuleContext,
    ModelProvider,
    ParallelizeModelStageContext,
    StagePosition,
    TrainTask,
    WeightMapping,
    WeightRule,
    shard_data_parallel,
)


class Stage(nn.Module):
    """Some layers of a model that is built as Llama is: with `model.embed_tokens`, `model.layers` and `model.norm`.

    The names of its weights are those in the whole model.

    Args:
        whole: The whole model, on the meta device.
        position: Which stage this is.
    """

    def __init__(self, whole: PreTrainedModel, position: StagePosition) -> None:
        super().__init__()
        inner = whole.model
        indices = position.layers(len(inner.layers))
        layers = nn.ModuleDict({str(index): inner.layers[index] for index in indices})
        self.model = nn.ModuleDict({"rotary_emb": inner.rotary_emb, "layers": layers})
        if position.is_first:
            self.model["embed_tokens"] = inner.embed_tokens
        if position.is_last:
            self.model["norm"], self.lm_head = inner.norm, whole.lm_head
        self._position = position

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        """Apply the layers of this stage.

        Args:
            input_ids: The tokens, int64 [batch, length], or what the previous stage returned.

        Returns:
            Activations, float [batch, length, hidden_size], or from the last stage logits [batch, length, vocab_size].
        """
        hidden: torch.Tensor = self.model["embed_tokens"](input_ids) if self._position.is_first else input_ids
        places = torch.arange(hidden.shape[1], device=hidden.device).unsqueeze(0)
        rotations = self.model["rotary_emb"](hidden, position_ids=places)
        for layer in self.model["layers"].children():
            hidden = layer(hidden, position_embeddings=rotations, position_ids=places)
        return self.lm_head(self.model["norm"](hidden)) if self._position.is_last else hidden


class CausalLMProvider(ModelProvider):
    """Provides a causal language model of transformers.

    It is built on the meta device, so no process holds more of it than its own part; its weights are loaded from
    `source_checkpoint`.

    Args:
        base: The folder of the published model.
        lora: The adapter to train instead of the model; `None` trains all weights.
    """

    def __init__(self, base: Path, lora: LoraConfig | None = None) -> None:
        self.config = AutoConfig.from_pretrained(base)
        self._lora = lora

    def initialize_model_stage(self, ctx: InitializeModelStageContext) -> InitializeModelStageResult:
        with torch.device("meta"):
            # Files are often in bfloat16, in which small steps of the optimizer would be lost.
            whole = AutoModelForCausalLM.from_config(self.config, dtype=torch.float32)
            model = whole if ctx.stage.num_stages == 1 else Stage(whole, ctx.stage)
            if self._lora is not None:
                inject_adapter_in_model(self._lora, model)
        self._whole = whole
        return InitializeModelStageResult(model=model, tied_weights=whole.all_tied_weights_keys)

    def parallelize_model_stage(self, ctx: ParallelizeModelStageContext) -> None:
        shard_data_parallel(ctx.model, ctx.dist_context, blocks=GradientCheckpointingLayer)

    def initialize_module(self, ctx: InitializeModuleContext) -> bool:
        """Initialise what files do not hold: adapters, and buffers such as the frequencies of rotary embeddings."""
        if ctx.name.endswith("lora_B.default"):
            for parameter in ctx.module.parameters():
                nn.init.zeros_(parameter)  # so that an adapter changes nothing at first
        elif not super().initialize_module(ctx):
            self._whole._init_weights(ctx.module)  # noqa: SLF001 -- transformers has no public function for one module
        return True


def weight_mapping(lora: LoraConfig | None) -> WeightMapping:
    """Return how the weights correspond to those in files: for a full model they are the same."""
    if lora is None:
        return WeightMapping()
    # peft moves each adapted layer into `base_layer`; its files lack the name of the adapter, and have a prefix.
    adapted = [WeightRule(f"**.{name}.weight", f"**.{name}.base_layer.weight") for name in lora.target_modules or ()]
    adapters = [
        WeightRule(f"base_model.model.**.lora_{side}.weight", f"**.lora_{side}.default.weight") for side in "AB"
    ]
    return WeightMapping(rules=[*adapters, *adapted], missing=["**.lora_*.default.weight"])


class NextToken(TrainTask):
    """Predicts each token from those before it."""

    def build_forward_inputs(self, ctx: BuildForwardInputsContext) -> BuildForwardInputsResult:
        return BuildForwardInputsResult(inputs={"input_ids": ctx.batch["tokens"]})

    def compute_loss(self, ctx: ComputeLossContext) -> ComputeLossResult:
        logits = ctx.outputs if isinstance(ctx.outputs, torch.Tensor) else ctx.outputs.logits
        return ComputeLossResult(loss=nn.functional.cross_entropy(logits.flatten(0, 1), ctx.batch["targets"].flatten()))
