"""The example fine-tunes a model of Hugging Face from safetensors to safetensors, on any number of processes."""

import json
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel
from ranks import run_on_ranks
from safetensors.torch import load_file
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

import finetune
from causal_lm import CausalLMProvider, weight_mapping
from d9d import DeviceMeshParameters, InitializeModelStageContext, InitializeModuleContext
from d9d.core.dist_context import DistributedContext
from d9d.loop.component.checkpoint.source import SourceWeights, find_source
from d9d.loop.component.weight_init import initialize_weights

# peft calls a method of transformers that has a new name.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")

TOKENS = torch.arange(64).unsqueeze(0)
MESHES = {
    "fsdp": DeviceMeshParameters(data_parallel_shard=2),
    "pipeline": DeviceMeshParameters(pipeline_parallel=2),
}


@pytest.fixture(autouse=True)
def _reports_are_not_shown(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Run on the CPU, without a progress bar."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    yield
    logging.getLogger().handlers.clear()


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return finetune.make_base(tmp_path_factory.mktemp("published") / "base")


def adapter() -> LoraConfig:
    return LoraConfig(r=8, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")


def train(base: Path, folder: Path, mesh: DeviceMeshParameters, *, is_lora: bool) -> None:
    """Train two steps and export."""
    lora = adapter() if is_lora else None
    trainer = finetune.configure(base, folder, lora=lora, mesh=mesh, total_steps=2)
    trainer.train()
    if lora is None:
        trainer.export(folder / "exported", config=AutoConfig.from_pretrained(base))
    else:
        trainer.export(folder / "exported", config=lora, trainable_only=True, name="adapter_model")


def train_on_ranks(base: Path, folder: Path, mesh: DeviceMeshParameters, is_lora: bool) -> None:  # noqa: FBT001 -- of a process
    train(base, folder, mesh, is_lora=is_lora)


def our_logits(base: Path, exported: Path, lora: LoraConfig | None) -> torch.Tensor:
    """Load an export as inference does, over the base if it is an adapter, and return the logits."""
    provider = CausalLMProvider(base, lora)
    context = InitializeModelStageContext(dist_context=DistributedContext(device=torch.device("cpu"), world_size=1))
    model = provider.initialize_model_stage(context).model
    sources = [exported] if lora is None else [base, exported]
    weights = SourceWeights(tuple(find_source(path) for path in sources), weight_mapping(lora))
    loaded = weights.plan([model]).recipes.keys()

    def initialize(name: str, module: nn.Module) -> bool:
        return provider.initialize_module(InitializeModuleContext(name=name, module=module))

    initialize_weights(model, device=torch.device("cpu"), seed=0, initialize=initialize, loaded=loaded)
    weights.load([model])
    return logits(model.eval())


def logits(model: nn.Module) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model(TOKENS).logits
    return found


def test_an_adapter_is_trained_and_loaded_by_peft(base: Path, tmp_path: Path) -> None:
    """On one process; checkpoints and the export hold the adapter alone, and the logits are those of peft."""
    train(base, tmp_path, DeviceMeshParameters(), is_lora=True)
    exported = load_file(tmp_path / "exported" / "adapter_model.safetensors")
    checkpoint = json.loads((tmp_path / "checkpoints" / "step-2" / "tensors.json").read_text())
    original = AutoModelForCausalLM.from_pretrained(base).eval()
    before = logits(original)
    theirs = logits(PeftModel.from_pretrained(original, tmp_path / "exported").eval())

    assert len(exported) == 8
    assert all(".lora_A.weight" in name or ".lora_B.weight" in name for name in exported)
    assert sum(path.startswith("model/") for path in checkpoint) == len(exported)
    assert torch.equal(our_logits(base, tmp_path / "exported", adapter()), theirs)
    assert not torch.equal(before, theirs)


@pytest.mark.slow
@pytest.mark.parametrize("is_lora", [False, True], ids=["full", "lora"])
def test_any_layout_trains_the_same_model(is_lora: bool, base: Path, tmp_path: Path) -> None:  # noqa: FBT001 -- a case
    """FSDP2 and a pipeline export what one process does, and transformers and peft load it with our logits."""
    train(base, tmp_path / "alone", DeviceMeshParameters(), is_lora=is_lora)
    name = "adapter_model.safetensors" if is_lora else "model.safetensors"
    alone = load_file(tmp_path / "alone" / "exported" / name)
    for layout, mesh in MESHES.items():
        run_on_ranks(2, train_on_ranks, base, tmp_path / layout, mesh, is_lora)
        folder = tmp_path / layout / "exported"
        found = load_file(folder / name)
        loaded = AutoModelForCausalLM.from_pretrained(base if is_lora else folder)
        theirs = logits((PeftModel.from_pretrained(loaded, folder) if is_lora else loaded).eval())

        assert found.keys() == alone.keys()
        assert all(torch.allclose(found[key], alone[key], atol=1e-4) for key in alone)
        assert torch.equal(our_logits(base, folder, adapter() if is_lora else None), theirs)


@pytest.mark.slow
@pytest.mark.parametrize("options", [[], ["--lora"]], ids=["full", "lora"])
def test_the_script_ends_with_a_model_of_transformers(
    options: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the command line, without a network; the same command, run again, has nothing to do."""
    monkeypatch.setattr("sys.argv", ["finetune.py", "--run-folder", str(tmp_path), "--total-steps", "2", *options])
    for _ in range(2):
        finetune.main()

    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / ("base" if options else "tuned"))
    model = PeftModel.from_pretrained(loaded, tmp_path / "adapter") if options else loaded
    assert logits(model).shape == (1, 64, finetune.NUM_BYTES)
