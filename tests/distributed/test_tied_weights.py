"""Weights that stages of a pipeline share are one weight: in its steps, in the norm, in checkpoints and in exports."""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from ranks import run_on_ranks
from safetensors.torch import load_file
from torch import nn
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.multiprocessing.spawn import ProcessRaisedException

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
    ParameterGroup,
    PipelineConfig,
    ReportingConfig,
    ScheduleName,
    Trainer,
    TrainingConfig,
    TrainingConfigurator,
    TrainTask,
    shard_data_parallel,
)
from d9d.loop.component.checkpoint.storage import Checkpoint

NUM_TOKENS, WIDTH, NUM_LAYERS, LENGTH, NUM_STEPS = 11, 6, 4, 5, 3
TIED = {"head.weight": "embed.weight"}


class Stage(nn.Module):
    """An embedding, some layers, and an output layer that uses the embedding."""

    def __init__(self, indices: range, *, is_first: bool, is_last: bool) -> None:
        super().__init__()
        self.is_first, self.is_last = is_first, is_last
        # Registered in the order of the whole model, so that its first name is that of the embedding.
        if is_first:
            self.embed = nn.Embedding(NUM_TOKENS, WIDTH)
        self.layers = nn.ModuleDict({str(index): nn.Linear(WIDTH, WIDTH) for index in indices})
        if is_last:
            self.head = nn.Linear(WIDTH, NUM_TOKENS, bias=False)
        if is_first and is_last:
            self.head.weight = self.embed.weight

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        features = self.embed(tokens) if self.is_first else tokens
        for layer in self.layers.values():
            features = layer(features).tanh()
        outputs: torch.Tensor = self.head(features) if self.is_last else features
        return outputs


@dataclasses.dataclass
class Provider(ModelProvider):
    """Provides the stages.

    Attributes:
        tied: What the stages declare as tied.
        duplicate: Whether the last stage has the weight under the name of the first stage as well, a mistake.
        split: Whether tensor parallelism unties the weights, a mistake.
        drift: Whether a layer differs between processes, a mistake.
    """

    tied: Mapping[str, str] = dataclasses.field(default_factory=lambda: TIED)
    duplicate: bool = False
    split: bool = False
    drift: bool = False

    def initialize_model_stage(self, ctx: InitializeModelStageContext) -> InitializeModelStageResult:
        stage = ctx.stage
        with torch.device("meta"):
            model = Stage(stage.layers(NUM_LAYERS), is_first=stage.is_first, is_last=stage.is_last)
            if self.duplicate and stage.is_last:
                model.embed = nn.Embedding(NUM_TOKENS, WIDTH)
                model.embed.weight = model.head.weight
        return InitializeModelStageResult(model=model, tied_weights=self.tied)

    def parallelize_model_stage(self, ctx: ParallelizeModelStageContext) -> None:
        if self.drift:
            ctx.model.layers = nn.ModuleDict({"0": nn.Linear(WIDTH, WIDTH)})
            nn.init.constant_(ctx.model.get_parameter("layers.0.bias"), ctx.dist_context.rank)
        if self.split:
            mesh = ctx.dist_context.mesh_for("dense")["tensor_parallel"]
            for module in ctx.model.modules():
                for name, parameter in [*module.named_parameters(recurse=False)]:
                    setattr(module, name, nn.Parameter(distribute_tensor(parameter.detach(), mesh)))
        shard_data_parallel(ctx.model, ctx.dist_context)


class Task(TrainTask):
    def build_forward_inputs(self, ctx: BuildForwardInputsContext) -> BuildForwardInputsResult:
        return BuildForwardInputsResult(inputs={"tokens": ctx.batch})

    def compute_loss(self, ctx: ComputeLossContext) -> ComputeLossResult:
        loss = nn.functional.cross_entropy(ctx.outputs.flatten(0, 1), ctx.batch.flatten().roll(-1))
        return ComputeLossResult(loss=loss)


ADAMW = OptimizerBuilder(torch.optim.AdamW, lr=0.05)


def configure(
    mesh: Mapping[str, int],
    folder: Path | None = None,
    *,
    schedule: ScheduleName = "1f1b",
    provider: Provider | None = None,
    optimizer: Any = ADAMW,
    total_steps: int = NUM_STEPS,
    **settings: Any,
) -> Trainer:
    return TrainingConfigurator(
        config=TrainingConfig(
            total_steps=total_steps,
            global_batch_size=16,
            micro_batch_size=2,
            max_gradient_norm=0.05,
            device="cpu",
            mesh=DeviceMeshParameters(**mesh),
            pipeline=PipelineConfig(schedule=schedule),
            checkpointing=None
            if folder is None
            else CheckpointingConfig(folder=folder / "checkpoints", period_steps=1),
            reporting=ReportingConfig(
                progress_bar=False, period_steps=1, json_lines=folder and folder / "metrics.jsonl"
            ),
            **settings,
        ),
        task=Task(),
        model_provider=provider or Provider(),
        dataset_provider=list(torch.randint(NUM_TOKENS, (64, LENGTH), generator=torch.Generator().manual_seed(0))),
        optimizer_provider=optimizer,
    ).configure()


def train(mesh: Mapping[str, int], folder: Path, schedule: ScheduleName = "1f1b", export: str = "exported") -> Any:
    """Train, or resume; export; and return the weights of this rank."""
    trainer = configure(mesh, folder, schedule=schedule)
    trainer.train()
    trainer.export(folder / export)
    weights = {name: value for module in trainer.modules for name, value in module.state_dict().items()}
    return {name: full(value) for name, value in weights.items()}


def reported(folder: Path) -> torch.Tensor:
    """Return the loss and the norm of each step, [step, 2]."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return torch.tensor([[line["loss"], line["gradient_norm"]] for line in lines])


def full(tensor: torch.Tensor) -> torch.Tensor:
    return (tensor.full_tensor() if isinstance(tensor, DTensor) else tensor).detach().clone()


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    """A run on one process, whose stage ties the weights itself."""
    folder = tmp_path_factory.mktemp("alone")
    (result,) = run_on_ranks(1, train, {}, folder)
    return result, folder


LAYOUTS: list[Any] = [
    ("pipeline", {"pipeline_parallel": 2}, "1f1b"),
    pytest.param("v", {"pipeline_parallel": 2}, "zbv"),
    pytest.param("fsdp", {"pipeline_parallel": 2, "data_parallel_shard": 2}, "1f1b", marks=pytest.mark.slow),
    pytest.param("v of fsdp", {"pipeline_parallel": 2, "data_parallel_shard": 2}, "zbv", marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("name", "mesh", "schedule"), LAYOUTS)
def test_a_pipeline_trains_tied_weights_as_one_process_does(
    name: str, mesh: Mapping[str, int], schedule: ScheduleName, alone: tuple[Any, Path], tmp_path: Path
) -> None:
    """Losses, norms before clipping, and weights; both parameters are equal bit for bit; files hold the weight once."""
    weights, folder = alone
    num_ranks = DeviceMeshParameters(**mesh).world_size
    results = run_on_ranks(num_ranks, train, mesh, tmp_path, schedule)
    found = {name: value for of_rank in results for name, value in of_rank.items()}
    exported = load_file(tmp_path / "exported" / "model.safetensors")

    assert len(reported(folder)) == NUM_STEPS
    assert torch.allclose(reported(tmp_path), reported(folder), rtol=1e-5, atol=0)
    assert found.keys() == weights.keys()
    assert all(torch.allclose(found[name], weights[name], atol=1e-5) for name in weights)
    assert torch.equal(found["head.weight"], found["embed.weight"])
    assert exported.keys() == load_file(folder / "exported" / "model.safetensors").keys()
    assert "head.weight" not in exported
    assert torch.equal(exported["embed.weight"], found["embed.weight"])
    state = Checkpoint(tmp_path / "checkpoints" / f"step-{NUM_STEPS}").read("model", "optimizer")
    assert state["model"].keys() == exported.keys()
    assert state["optimizer"]["state"].keys() == exported.keys()


def resume(mesh: Mapping[str, int], folder: Path, schedule: ScheduleName = "1f1b") -> Any:
    """Remove the last checkpoint, and train the last step again."""
    if torch.distributed.get_rank() == 0:
        Checkpoint(folder / "checkpoints" / f"step-{NUM_STEPS}").remove()
    torch.distributed.barrier()
    return train(mesh, folder, schedule, "resumed")


@pytest.mark.parametrize("schedule", ["1f1b", "zbv"])
def test_a_checkpoint_resumes_on_a_pipeline_and_on_one_process(schedule: ScheduleName, tmp_path: Path) -> None:
    """From either to either, with the moments of both parameters."""
    pipeline = {"pipeline_parallel": 2}
    run_on_ranks(2, train, pipeline, tmp_path, schedule)
    expected = load_file(tmp_path / "exported" / "model.safetensors")
    for mesh, name in ((pipeline, "a"), ({}, "b")):
        num_ranks = DeviceMeshParameters(**mesh).world_size
        results = run_on_ranks(num_ranks, resume, mesh, tmp_path, schedule if mesh else "1f1b")
        found = {name: value for of_rank in results for name, value in of_rank.items()}
        (tmp_path / "resumed").rename(tmp_path / name)

        assert all(torch.allclose(found[name], expected[name], atol=1e-6) for name in expected)
        assert torch.equal(found["head.weight"], found["embed.weight"])


def refused(provider: Provider, optimizer: Any, mesh: Mapping[str, int]) -> None:
    configure(mesh, provider=provider, optimizer=optimizer)


def is_head(name: str, parameter: nn.Parameter) -> bool:
    return name.startswith("head")


@pytest.mark.parametrize(
    ("provider", "message"),
    [
        (
            Provider(tied={"head.weigth": "embed.weight"}),
            "tied_weights names 'head.weigth', which is a parameter",
        ),
        (Provider(tied={"head.weight": "layers.0.weight"}), r"one is float32\[11, 6\] and the other float32\[6, 6\]"),
        (Provider(tied={}, duplicate=True), r"both have a weight named 'embed.weight'.*return tied_weights="),
    ],
)
def test_wrong_declarations_are_refused_at_the_start(provider: Provider, message: str) -> None:
    """With the names, and what to do."""
    with pytest.raises(ProcessRaisedException, match=message):
        run_on_ranks(2, refused, provider, ADAMW, {"pipeline_parallel": 2})


def test_different_steps_of_tied_weights_are_refused() -> None:
    """They would drift apart."""
    builder = OptimizerBuilder(torch.optim.AdamW, lr=0.1, groups=[ParameterGroup(is_head, weight_decay=0.0)])

    with pytest.raises(ProcessRaisedException, match=r"different settings for 'head.weight' and 'embed.weight'"):
        run_on_ranks(2, refused, Provider(), builder, {"pipeline_parallel": 2})


def test_weights_that_parallelising_unties_are_refused() -> None:
    """Tensor parallelism makes new parameters."""
    with pytest.raises(ProcessRaisedException, match=r"parallelize_model_stage has untied 'head.weight' from"):
        run_on_ranks(2, refused, Provider(split=True), ADAMW, {"tensor_parallel": 2})


def test_weights_that_differ_between_processes_are_refused_at_the_start() -> None:
    """Also without checkpoints, which would refuse them at the first save."""
    with pytest.raises(ProcessRaisedException, match=r"'model/layers.0.(bias|weight)' differs between rank 0"):
        run_on_ranks(2, refused, Provider(drift=True), ADAMW, {"tensor_parallel": 2})


def test_a_declaration_needs_no_pipeline(tmp_path: Path) -> None:
    """A stage that has both weights must tie them itself."""

    class Untied(Provider):
        def initialize_model_stage(self, ctx: InitializeModelStageContext) -> InitializeModelStageResult:
            result = super().initialize_model_stage(ctx)
            assert isinstance(result.model, Stage)
            result.model.head.weight = nn.Parameter(torch.zeros(NUM_TOKENS, WIDTH))
            return result

    with pytest.raises(ValueError, match=r"ties 'head\.weight' to 'embed\.weight', but they are two param"):
        configure({}, provider=Untied())
