"""Published models are loaded, trained, resumed and exported on any mesh, and their own libraries load the result."""

from pathlib import Path

import pytest
import torch
from published import ARCHITECTURES, EXPERTS, NUM_STEPS, Architecture, logits_of, run, torchvision_layout
from ranks import run_on_ranks
from safetensors.torch import load_file
from torch import nn
from torch.utils.data import default_collate
from transformers import AutoModelForCausalLM

from d9d import (
    BuildForwardInputsContext,
    BuildForwardInputsResult,
    InferenceConfig,
    InferenceConfigurator,
    InferenceTask,
    ProcessOutputsContext,
    ReportingConfig,
)

pytestmark = pytest.mark.slow

LAYOUTS: dict[str, dict[str, int]] = {
    "one process": {},
    "fsdp": {"data_parallel_shard": 2},
    "tensor parallel": {"tensor_parallel": 2},
    "pipeline": {"pipeline_parallel": 2},
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The published models in `published`, and in a folder for each layout the runs that started from them."""
    folder = tmp_path_factory.mktemp("runs")
    (folder / "published").mkdir()
    for name, architecture in ARCHITECTURES.items():
        architecture.publish(folder / "published" / name)
    for layout, mesh in LAYOUTS.items():
        (folder / layout).mkdir()
        for name in ARCHITECTURES:
            (folder / layout / name).mkdir()
        run_on_ranks(2 if mesh else 1, run, list(ARCHITECTURES), mesh, folder / "published", folder / layout)
    return folder


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_any_mesh_starts_from_published_weights_and_exports_such_weights(name: str, layout: str, runs: Path) -> None:
    """Under the published names and shapes, trained by all steps, and equal to those of one process."""
    before = load_file(runs / "published" / name / "model.safetensors")
    after = load_file(runs / layout / name / "exported" / "model.safetensors")
    alone = load_file(runs / "one process" / name / "exported" / "model.safetensors")

    assert (runs / layout / name / "checkpoints" / f"step-{NUM_STEPS}").is_dir()
    assert {key: value.shape for key, value in after.items()} == {key: value.shape for key, value in before.items()}
    assert all(not torch.equal(after[key], before[key]) for key in after if after[key].is_floating_point())
    # Processes with their own samples normalise by their own statistics.
    if not (name == "resnet" and layout == "fsdp"):
        assert all(torch.allclose(after[key], alone[key], atol=1e-5) for key in after)


class Logits(InferenceTask):
    """Keeps the outputs of the model."""

    def __init__(self) -> None:
        self.outputs: list[torch.Tensor] = []

    def build_forward_inputs(self, ctx: BuildForwardInputsContext) -> BuildForwardInputsResult:
        return BuildForwardInputsResult(inputs={key: ctx.batch[key] for key in ctx.batch if key != "targets"})

    def process_outputs(self, ctx: ProcessOutputsContext) -> None:
        self.outputs.append(logits_of(ctx.outputs))


def our_logits(architecture: Architecture, published: Path, exported: Path) -> torch.Tensor:
    task, samples = Logits(), architecture.samples()
    InferenceConfigurator(
        config=InferenceConfig(
            global_batch_size=len(samples),
            device="cpu",
            source_checkpoint=exported,
            reporting=ReportingConfig(progress_bar=False, json_lines=None),
        ),
        task=task,
        model_provider=architecture.provider(published),
        dataset_provider=samples,
        weight_mapping=architecture.mapping,
    ).configure().infer()
    (outputs,) = task.outputs
    return outputs


def load_with_its_library(architecture: Architecture, exported: Path) -> nn.Module:
    if architecture.config is None:
        model = torchvision_layout()
        model.load_state_dict(load_file(exported / "model.safetensors"))
        return model.eval()
    model, report = AutoModelForCausalLM.from_pretrained(
        exported, output_loading_info=True, experts_implementation=EXPERTS
    )
    assert not any(report.values()), report
    loaded: nn.Module = model.eval()
    return loaded


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_library_of_a_model_loads_an_export(name: str, layout: str, runs: Path) -> None:
    """Logits equal ours; bit for bit if the code of the model is the same."""
    architecture, exported = ARCHITECTURES[name], runs / layout / name / "exported"
    samples = default_collate(architecture.samples())
    with torch.no_grad():
        theirs = logits_of(
            load_with_its_library(architecture, exported)(samples.get("input_ids", samples.get("image")))
        )
    difference = (our_logits(architecture, runs / "published" / name, exported) - theirs).abs().max().item()

    assert difference == 0.0 if architecture.is_same_code else difference < 1e-5
