"""What people reported about resuming in other trainers does not happen here."""

import json
import random
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from live_memory import LiveMemory
from torch import nn
from torch.utils.data import Dataset

from d9d.core.protocol import OptimizerProtocol
from d9d.loop.component.checkpoint.storage import Checkpoint
from d9d.loop.config import CheckpointingConfig, DataLoadingConfig
from d9d.loop.control import (
    BuildForwardInputsContext,
    BuildForwardInputsResult,
    ComputeLossContext,
    ComputeLossResult,
    InitializeModelStageContext,
    InitializeModelStageResult,
    InitializeOptimizerContext,
    ModelProvider,
)
from d9d.loop.event import EventBus
from d9d.loop.event.catalogue.train import (
    EVENT_TRAIN_MODEL_STAGES_READY,
    EVENT_TRAIN_OPTIMIZER_STEP_POST,
    EVENT_TRAIN_STEP_POST,
    EVENT_TRAIN_STEP_PRE,
    EventModelStagesReadyContext,
    EventStepContext,
)
from d9d.loop.run import Trainer

from .toy_job import (
    NUM_FEATURES,
    Sample,
    ToyDataset,
    ToyModelProvider,
    ToyTask,
    configure_training,
    same_tensors,
    training_config,
    weights_of,
)

Configure = Callable[[CheckpointingConfig | None], Trainer]


def train_until(trainer: Trainer, num_steps: int) -> None:
    """Train, and leave the run after some steps."""
    for ctx in trainer.steps():
        if ctx.stepper.current_step == num_steps:
            break


def require_exact_resume(configure: Configure, folder: Path, num_steps: int) -> Trainer:
    """Interrupt a run after some steps, and check that it ends like one that was not interrupted."""
    undisturbed = configure(None)
    undisturbed.train()
    checkpointing = CheckpointingConfig(folder=folder, period_steps=1)
    train_until(configure(checkpointing), num_steps)
    resumed = configure(checkpointing)
    resumed.train()
    assert same_tensors(weights_of(resumed.modules[0]), weights_of(undisturbed.modules[0]))
    return resumed


class Provides(ModelProvider):
    """Provides what a function builds.

    Args:
        build: Builds the model.
    """

    def __init__(self, build: Callable[[], nn.Module]) -> None:
        self._build = build

    def initialize_model_stage(self, ctx: InitializeModelStageContext) -> InitializeModelStageResult:
        return InitializeModelStageResult(model=self._build())


class TwoLayers(nn.Module):
    """Predicts with the first layer, and from the third step on with the second too."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(NUM_FEATURES, 1)
        self.second = nn.Linear(NUM_FEATURES, 1)
        self.uses_second = True

    def forward(self, input: torch.Tensor) -> torch.Tensor:  # noqa: A002 -- the name in the task
        output: torch.Tensor = self.first(input)
        return output + self.second(input) if self.uses_second else output


def compiled() -> nn.Module:
    model = nn.Sequential(nn.Linear(NUM_FEATURES, 4), nn.Linear(4, 1))
    optimized = torch.compile(model, backend="eager")
    assert isinstance(optimized, nn.Module)
    return nn.Sequential(optimized)


def not_compiled() -> nn.Module:
    return nn.Sequential(nn.Sequential(nn.Linear(NUM_FEATURES, 4), nn.Linear(4, 1)))


@pytest.mark.parametrize(("before", "after"), [(compiled, not_compiled), (not_compiled, compiled)])
def test_a_run_may_resume_with_or_without_torch_compile(
    before: Callable[[], nn.Module], after: Callable[[], nn.Module], tmp_path: Path
) -> None:
    """People could not resume without `torch.compile`, since all weights were saved as `_orig_mod.…`.

    pytorch/pytorch#101107, karpathy/nanoGPT#325, facebookresearch/fairseq#5096, pytorch/torchtitan#2622.
    """
    folder = CheckpointingConfig(folder=tmp_path, period_steps=1)
    first = configure_training(training_config(folder), model_provider=Provides(before))
    first.train()

    resumed = configure_training(training_config(folder), model_provider=Provides(after))
    resumed.train()

    assert [*Checkpoint(tmp_path / "step-3").read("model")["model"]] == [
        f"0.{layer}.{name}" for layer in (0, 1) for name in ("weight", "bias")
    ]
    pairs = zip(first.modules[0].parameters(), resumed.modules[0].parameters(), strict=True)
    assert all(torch.equal(*pair) for pair in pairs)


class PreciseSGD(torch.optim.Optimizer):
    """SGD that accumulates small updates of bfloat16 weights in float32."""

    def __init__(self, parameters: Iterator[nn.Parameter]) -> None:
        super().__init__(parameters, {"lr": 0.01})

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        del closure
        for group in self.param_groups:
            for parameter in group["params"]:
                state = self.state[parameter]
                state.setdefault("precise", parameter.float())
                state["precise"] -= group["lr"] * parameter.grad.float()
                parameter.copy_(state["precise"])


def test_the_optimizer_keeps_its_precision(tmp_path: Path) -> None:
    """People lost float32 state of optimizers of bfloat16 weights: loading rounded it to the dtype of the weights.

    pytorch/pytorch#43706, facebookresearch/fairscale#50.
    """

    def build() -> nn.Module:
        return nn.Sequential(nn.Linear(NUM_FEATURES, 1).bfloat16())

    class InBfloat16(ToyTask):
        def build_forward_inputs(self, ctx: BuildForwardInputsContext) -> BuildForwardInputsResult:
            return BuildForwardInputsResult(inputs={"input": ctx.batch["features"].bfloat16()})

        def compute_loss(self, ctx: ComputeLossContext) -> ComputeLossResult:
            return ComputeLossResult(loss=nn.functional.mse_loss(ctx.outputs.float(), ctx.batch["target"]))

    def optimizer(ctx: InitializeOptimizerContext) -> OptimizerProtocol:
        return PreciseSGD(iter(ctx.parameters()))

    def configure(checkpointing: CheckpointingConfig | None) -> Trainer:
        return configure_training(
            training_config(checkpointing, total_steps=8),
            task=InBfloat16(),
            model_provider=Provides(build),
            optimizer_provider=optimizer,
        )

    resumed = require_exact_resume(configure, tmp_path, 4)
    assert isinstance(resumed.optimizer, PreciseSGD)
    assert {state["precise"].dtype for state in resumed.optimizer.state.values()} == {torch.float32}


class CountsInGroups(torch.optim.Optimizer):
    """Keeps what it has learned in its parameter groups: a count, an estimate, and whether it averages."""

    def __init__(self, parameters: Iterator[nn.Parameter]) -> None:
        super().__init__(parameters, {"k": 0, "d": torch.tensor(0.001), "train_mode": False, "seen": [0.0]})

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        del closure
        for group in self.param_groups:
            group.update(k=group["k"] + 1, d=group["d"] * 1.5, train_mode=True, seen=[*group["seen"][-2:], 0.5])
            for parameter in group["params"]:
                parameter.sub_(parameter.grad, alpha=float(group["d"]) * group["k"] * sum(group["seen"]))


def test_what_an_optimizer_keeps_in_its_groups_is_resumed(tmp_path: Path) -> None:
    """People could not resume optimizers without a schedule, which keep counts and estimates in parameter groups.

    facebookresearch/schedule_free#32, LoganBooker/prodigy-plus-schedule-free#11.
    """

    def configure(checkpointing: CheckpointingConfig | None) -> Trainer:
        return configure_training(
            training_config(checkpointing, total_steps=6),
            optimizer_provider=lambda ctx: CountsInGroups(iter(ctx.parameters())),
        )

    resumed = require_exact_resume(configure, tmp_path, 3)

    assert resumed.optimizer.param_groups[0]["k"] == 6


def test_a_layer_that_is_frozen_for_some_steps_keeps_its_moments(tmp_path: Path) -> None:
    """People lost the moments of layers that were frozen when the checkpoint was loaded.

    pytorch/pytorch#192202.
    """

    def configure(checkpointing: CheckpointingConfig | None) -> Trainer:
        def freeze(ctx: EventStepContext) -> None:
            is_frozen = 2 <= ctx.stepper.current_step < 5
            for parameter in trainer.modules[0].get_submodule("first").parameters():
                parameter.requires_grad_(not is_frozen)

        trainer = configure_training(training_config(checkpointing, total_steps=8), model_provider=Provides(TwoLayers))
        trainer.event_bus.subscribe(EVENT_TRAIN_STEP_PRE, freeze)
        return trainer

    require_exact_resume(configure, tmp_path, 4)


def test_a_layer_may_be_used_for_the_first_time_after_a_resume(tmp_path: Path) -> None:
    """People could not load moments, because some parameters had not had a gradient yet.

    verl-project/verl#7283, pytorch/pytorch#140898 (moments that were silently not saved).
    """

    def configure(checkpointing: CheckpointingConfig | None) -> Trainer:
        def choose(ctx: EventStepContext) -> None:
            model = trainer.modules[0]
            assert isinstance(model, TwoLayers)
            model.uses_second = ctx.stepper.current_step >= 5

        trainer = configure_training(training_config(checkpointing, total_steps=8), model_provider=Provides(TwoLayers))
        trainer.event_bus.subscribe(EVENT_TRAIN_STEP_PRE, choose)
        return trainer

    require_exact_resume(configure, tmp_path, 3)


def test_groups_besides_an_empty_one_keep_their_options(tmp_path: Path) -> None:
    """People got an error in the first step after a resume, since an empty group had cost the others their options.

    pytorch/pytorch#143828.
    """

    def optimizer(ctx: InitializeOptimizerContext) -> OptimizerProtocol:
        groups: list[dict[str, Any]] = [
            {"params": [], "lr": 0.5},
            {"params": [each for each in ctx.parameters() if each.ndim > 1], "lr": 0.1, "betas": (0.5, 0.6)},
            {"params": [each for each in ctx.parameters() if each.ndim == 1], "weight_decay": 0.3},
        ]
        return torch.optim.AdamW(groups, lr=0.01)

    def configure(checkpointing: CheckpointingConfig | None) -> Trainer:
        return configure_training(training_config(checkpointing, total_steps=6), optimizer_provider=optimizer)

    resumed = require_exact_resume(configure, tmp_path, 3)
    assert [group["lr"] for group in resumed.optimizer.param_groups] == [0.5, 0.1, 0.01]


def test_an_option_that_a_newer_torch_has_added_takes_its_default(tmp_path: Path) -> None:
    """People could not load checkpoints of an older torch, in which AdamW had no `decoupled_weight_decay`.

    pytorch/pytorch#146157.
    """
    folder = CheckpointingConfig(folder=tmp_path, period_steps=1)

    def configure(checkpointing: CheckpointingConfig | None) -> Trainer:
        return configure_training(training_config(checkpointing, total_steps=6))

    undisturbed = configure(None)
    undisturbed.train()
    train_until(configure(folder), 3)
    # As an older torch would have written it.
    path = tmp_path / "step-3"
    manifest, state = (json.loads((path / name).read_text("utf-8")) for name in ("checkpoint.json", "state.json"))
    manifest["settings"] = {key: value for key, value in manifest["settings"].items() if "decoupled" not in key}
    before = json.dumps(state)
    _remove_key(state, "decoupled_weight_decay")
    assert json.dumps(state) != before
    (path / "state.json").write_text(json.dumps(state), "utf-8")
    manifest["files"]["state.json"] = (path / "state.json").stat().st_size
    (path / "checkpoint.json").write_text(json.dumps(manifest), "utf-8")

    resumed = configure(folder)
    resumed.train()

    assert same_tensors(weights_of(resumed.modules[0]), weights_of(undisturbed.modules[0]))
    assert resumed.optimizer.param_groups[0]["decoupled_weight_decay"] is True


def _remove_key(metadata: Any, name: str) -> None:
    """Remove a key of all dicts in the metadata of a state."""
    if isinstance(metadata, dict):
        if "dict" in metadata:
            metadata["dict"] = [entry for entry in metadata["dict"] if entry[0] != name]
        for value in metadata.values():
            _remove_key(value, name)
    elif isinstance(metadata, list):
        for value in metadata:
            _remove_key(value, name)


class Noting(ToyTask):
    """Notes the samples of each micro-batch."""

    def __init__(self) -> None:
        super().__init__()
        self.samples: list[int] = []

    def compute_loss(self, ctx: ComputeLossContext) -> ComputeLossResult:
        self.samples += ctx.batch["index"].tolist()
        return super().compute_loss(ctx)


@pytest.mark.parametrize("num_steps", [3, 4, 6])
def test_no_sample_is_skipped_or_repeated(num_steps: int, tmp_path: Path) -> None:
    """People's runs skipped a whole epoch after a checkpoint at its end, or repeated samples in the middle of one.

    verl-project/verl#7401, Lightning-AI/pytorch-lightning#5325 and #19617, huggingface/accelerate#2016 and #3158,
    allenai/OLMo#650, mosaicml/streaming#880.
    """
    folder = CheckpointingConfig(folder=tmp_path, period_steps=1)
    undisturbed, first, second = Noting(), Noting(), Noting()
    configure_training(training_config(total_steps=9), task=undisturbed).train()

    train_until(configure_training(training_config(folder, total_steps=9), task=first), num_steps)
    configure_training(training_config(folder, total_steps=9), task=second).train()

    assert first.samples + second.samples == undisturbed.samples
    assert Counter(undisturbed.samples) == dict.fromkeys(range(12), 3)


class Patience:
    """Stops the run after some steps that improve nothing."""

    def __init__(self, bus: EventBus) -> None:
        self.count = 0
        bus.subscribe(EVENT_TRAIN_STEP_POST, self.wait)

    def wait(self, ctx: EventStepContext) -> None:
        self.count += 1
        if self.count == 5:
            ctx.control.stop("no improvement in 5 steps")

    def state_dict(self) -> dict[str, Any]:
        return {"count": self.count}

    def load_state_dict(self, state_dict: dict[str, Any], /) -> None:
        self.count = state_dict["count"]


class Reading(Dataset[Sample]):
    """Notes which samples are read."""

    def __init__(self) -> None:
        self.samples = ToyDataset(400)
        self.read: list[int] = []

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Sample:
        self.read.append(index)
        return self.samples[index]


def test_a_resumed_run_reads_no_sample_to_skip_it(tmp_path: Path) -> None:
    """People's resumed runs read and threw away all samples before, which took hours.

    huggingface/transformers#11284 and #8876, lhotse-speech/lhotse#1080, openvdb/fvdb-reality-capture#159.
    """
    folder = CheckpointingConfig(folder=tmp_path, period_steps=40)
    configure_training(training_config(folder, total_steps=40), dataset=Reading()).train()
    dataset = Reading()
    configure_training(training_config(folder, total_steps=42), dataset=dataset).train()

    assert len(dataset.read) == 8


def test_the_patience_of_early_stopping_does_not_begin_again(tmp_path: Path) -> None:
    """People's runs that were interrupted now and then never stopped: each resume began to count from 0.

    huggingface/transformers#28544, Lightning-AI/pytorch-lightning#1463, facebookresearch/fairseq#3531,
    ultralytics/ultralytics#868.
    """

    def configure(checkpointing: CheckpointingConfig | None) -> Trainer:
        return configure_training(training_config(checkpointing, total_steps=20), task=ToyTask(Patience))

    folder = CheckpointingConfig(folder=tmp_path, period_steps=1)
    undisturbed = configure(None)
    undisturbed.train()
    train_until(configure(folder), 2)
    train_until(configure(folder), 4)
    last = configure(folder)
    last.train()

    assert last.stepper.current_step == undisturbed.stepper.current_step < 20


class Averaged:
    """Averages the weights of all steps."""

    def __init__(self, bus: EventBus) -> None:
        self.num_updates = 0
        self.weights: dict[str, torch.Tensor] = {}
        self._modules: list[nn.Module] = []
        bus.subscribe(EVENT_TRAIN_MODEL_STAGES_READY, self.begin)
        bus.subscribe(EVENT_TRAIN_STEP_POST, self.update)

    def begin(self, ctx: EventModelStagesReadyContext) -> None:
        self._modules = ctx.modules
        self.weights = weights_of(ctx.modules[0])

    def update(self, ctx: EventStepContext) -> None:
        del ctx
        self.num_updates += 1
        for name, weight in weights_of(self._modules[0]).items():
            self.weights[name].lerp_(weight, 1 / self.num_updates)

    def state_dict(self) -> dict[str, Any]:
        return {"num_updates": self.num_updates, "weights": self.weights}

    def load_state_dict(self, state_dict: dict[str, Any], /) -> None:
        self.num_updates, self.weights = state_dict["num_updates"], state_dict["weights"]


def test_averaged_weights_and_trained_weights_are_both_resumed(tmp_path: Path) -> None:
    """People's runs continued with the averaged weights in place of the trained ones, or averaged from the beginning.

    ultralytics/yolov5#310, Megvii-BaseDetection/YOLOX#1318, m2lines/Samudra#282, lightly-ai/lightly-train#892.
    """
    averages: list[Averaged] = []

    def configure(checkpointing: CheckpointingConfig | None) -> Trainer:
        task = ToyTask(lambda bus: averages.append(Averaged(bus)))
        return configure_training(training_config(checkpointing, total_steps=6), task=task)

    require_exact_resume(configure, tmp_path, 3)

    undisturbed, _, resumed = averages
    assert resumed.num_updates == 6
    assert same_tensors(resumed.weights, undisturbed.weights)


class NoisyDataset(Dataset[Sample]):
    """Samples with noise from numpy and from Python, different each time they are read."""

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> Sample:
        noise = torch.tensor([np.random.rand(), random.random(), torch.rand(()).item()])  # noqa: S311 -- as people do
        return {"features": noise, "target": torch.ones(1), "index": torch.tensor(index)}


class NotingNoise(ToyTask):
    """Notes the noise of each sample."""

    def __init__(self) -> None:
        super().__init__()
        self.noise: list[tuple[float, ...]] = []

    def compute_loss(self, ctx: ComputeLossContext) -> ComputeLossResult:
        self.noise += [tuple(each.tolist()) for each in ctx.batch["features"]]
        return super().compute_loss(ctx)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_augmentations_are_never_repeated_and_resume_exactly(num_workers: int, tmp_path: Path) -> None:
    """People's workers all drew the same numbers of numpy, in every epoch, and a resumed run drew other numbers.

    pytorch/pytorch#5059, #3880 and #41329, facebookresearch/fairseq#1383, Lightning-AI/pytorch-lightning#20412,
    huggingface/transformers#46628.
    """

    def noise(folder: Path, *ends: int) -> list[tuple[float, ...]]:
        task = NotingNoise()
        for end in ends:
            checkpointing = CheckpointingConfig(folder=folder, period_steps=1)
            loading = DataLoadingConfig(num_workers=num_workers)
            config = training_config(checkpointing, total_steps=6, data_loading=loading)
            train_until(configure_training(config, task=task, dataset=NoisyDataset()), end)
        return task.noise

    undisturbed = noise(tmp_path / "undisturbed", 6)

    assert [len(set(column)) for column in zip(*undisturbed, strict=True)] == [24, 24, 24]
    assert noise(tmp_path / "resumed", 3, 6) == undisturbed


def test_a_resumed_run_holds_no_second_copy_of_its_state(tmp_path: Path) -> None:
    """People's resumed runs needed more memory than fresh ones, since what was loaded was not freed.

    karpathy/nanoGPT#158 and #236, lucidrains/imagen-pytorch#131, axolotl-ai-cloud/axolotl#219.
    """
    folder = CheckpointingConfig(folder=tmp_path, period_steps=1)

    def peak_in_last_step() -> int:
        found: list[int] = []
        with LiveMemory("cpu") as memory:
            config = training_config(folder, total_steps=6)
            trainer = configure_training(config, model_provider=ToyModelProvider(num_hidden=10_000))
            trainer.event_bus.subscribe(EVENT_TRAIN_STEP_PRE, lambda ctx: memory.take_peak())
            trainer.event_bus.subscribe(EVENT_TRAIN_OPTIMIZER_STEP_POST, lambda ctx: found.append(memory.take_peak()))
            trainer.train()
        return found[-1]

    fresh = peak_in_last_step()
    for step in (4, 5, 6):
        Checkpoint(tmp_path / f"step-{step}").remove()
    resumed = peak_in_last_step()

    assert resumed == pytest.approx(fresh, abs=10_000)
    assert fresh > 600_000  # weights, gradients, and two moments


class NumpyCounts(ToyTask):
    """Keeps its best loss as numpy computes it."""

    def __init__(self) -> None:
        super().__init__()
        self.best = np.float64("inf")

    def compute_loss(self, ctx: ComputeLossContext) -> ComputeLossResult:
        result = super().compute_loss(ctx)
        assert result.loss is not None
        self.best = np.minimum(self.best, result.loss.detach().double().numpy())
        return result

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best}

    def load_state_dict(self, state_dict: dict[str, Any], /) -> None:
        self.best = np.float64(state_dict["best"])


def test_numbers_of_numpy_are_resumed(tmp_path: Path) -> None:
    """People's checkpoints with a number or a random state of numpy could be written, and with torch 2.6 not be read.

    modelscope/ms-swift#5235, nanoporetech/remora#226, nerfstudio-project/nerfstudio#3702, allenai/open-instruct#673.
    """
    folder = CheckpointingConfig(folder=tmp_path, period_steps=1)
    first, resumed = NumpyCounts(), NumpyCounts()
    configure_training(training_config(folder), task=first).train()
    configure_training(training_config(folder), task=resumed).train()

    assert resumed.best == first.best < np.inf
