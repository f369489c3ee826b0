"""Fine-tune a causal language model of Hugging Face, from safetensors to safetensors. Run it again to resume.

python examples/finetune/finetune.py
python examples/finetune/finetune.py --lora
torchrun --nproc-per-node 2 examples/finetune/finetune.py --fsdp 2
torchrun --nproc-per-node 2 examples/finetune/finetune.py --pipeline 2 --lora

Without --base it makes a small Llama with random weights, so it needs no network, and learns the bytes of a Python
module. For a published model, download it once, and pass its folder:

hf download meta-llama/Llama-3.2-1B --local-dir runs/llama
python examples/finetune/finetune.py --base runs/llama --lora

The result is a folder that `AutoModelForCausalLM.from_pretrained` loads, or with --lora one for
`PeftModel.from_pretrained`. An export replaces nothing: before you train on with more --total-steps, move the result.
"""

import argparse
import inspect
import logging
import os
from pathlib import Path

import torch
from peft import LoraConfig
from torch.utils.data import Dataset
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, LlamaConfig

from causal_lm import CausalLMProvider, NextToken, weight_mapping
from d9d import (
    CheckpointingConfig,
    DeviceMeshParameters,
    OptimizerBuilder,
    ReportingConfig,
    Trainer,
    TrainingConfig,
    TrainingConfigurator,
    launch,
)

NUM_BYTES = 256


class Windows(Dataset[dict[str, torch.Tensor]]):
    """Windows over a sequence of tokens; the targets are the tokens, shifted by one.

    Args:
        tokens: The sequence.
        length: How many tokens a window has.
    """

    def __init__(self, tokens: list[int], length: int) -> None:
        self._tokens, self._length = torch.tensor(tokens), length

    def __len__(self) -> int:
        return (len(self._tokens) - 1) // self._length

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        window = self._tokens[index * self._length : (index + 1) * self._length + 1]
        return {"tokens": window[:-1], "targets": window[1:]}


def make_base(folder: Path) -> Path:
    """Write a small Llama with random weights, as a published model has them, unless it is there."""
    if not folder.exists():
        config = LlamaConfig(
            vocab_size=NUM_BYTES,
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            bos_token_id=None,
            eos_token_id=None,
        )
        torch.manual_seed(0)
        AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return folder


def read_tokens(base: Path) -> list[int]:
    """Return the source of a Python module, in the tokens of the model, or in bytes if it has no tokenizer."""
    text = inspect.getsource(argparse)
    if not (base / "tokenizer_config.json").exists():
        return list(text.encode())
    tokens: list[int] = AutoTokenizer.from_pretrained(base)(text)["input_ids"]
    return tokens


def configure(
    base: Path, run_folder: Path, *, lora: LoraConfig | None, mesh: DeviceMeshParameters, total_steps: int
) -> Trainer:
    """Configure the training; checkpoints hold the weights that are trained."""
    return TrainingConfigurator(
        config=TrainingConfig(
            total_steps=total_steps,
            global_batch_size=16,
            micro_batch_size=4,
            mesh=mesh,
            source_checkpoint=base,
            checkpointing=CheckpointingConfig(
                folder=run_folder / "checkpoints", period_steps=100, trainable_only=lora is not None
            ),
            reporting=ReportingConfig(json_lines=run_folder / "metrics.jsonl"),
        ),
        task=NextToken(),
        model_provider=CausalLMProvider(base, lora),
        dataset_provider=Windows(read_tokens(base), length=64),
        optimizer_provider=OptimizerBuilder(torch.optim.AdamW, lr=1e-3),
        weight_mapping=weight_mapping(lora),
    ).configure()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", type=Path, help="the folder of a published model; by default a random one is made")
    parser.add_argument("--run-folder", type=Path, default=Path("runs/finetune"))
    parser.add_argument("--lora", action="store_true", help="train an adapter instead of all weights")
    parser.add_argument("--fsdp", type=int, default=1, metavar="N", help="shard the model over N processes")
    parser.add_argument("--pipeline", type=int, default=1, metavar="N", help="divide the layers over N processes")
    parser.add_argument("--total-steps", type=int, default=200)
    arguments = parser.parse_args()
    is_main = os.environ.get("RANK", "0") == "0"
    logging.basicConfig(level=logging.INFO if is_main else logging.WARNING, format="%(message)s")
    base = arguments.base or arguments.run_folder / "base"
    if arguments.base is None and os.environ.get("LOCAL_RANK", "0") == "0":
        make_base(base)
    lora = LoraConfig(r=8, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM") if arguments.lora else None
    trainer = configure(
        base,
        arguments.run_folder / ("lora" if lora else "full"),
        lora=lora,
        mesh=DeviceMeshParameters(data_parallel_shard=arguments.fsdp, pipeline_parallel=arguments.pipeline),
        total_steps=arguments.total_steps,
    )
    trainer.train()
    result = arguments.run_folder / ("adapter" if lora else "tuned")
    if lora is None:
        trainer.export(result, config=AutoConfig.from_pretrained(base))
    else:
        trainer.export(result, config=lora, trainable_only=True, name="adapter_model")
    logging.getLogger(__name__).info("the result is in %s", result)


if __name__ == "__main__":
    launch(main)
