"""Checkpoints and exports of a run with frozen weights can hold the trainable ones alone."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from d9d import (
    CheckpointError,
    CheckpointingConfig,
    Evaluation,
    InitializeModelStageContext,
    InitializeModelStageResult,
    KeepBest,
    ModelProvider,
    Trainer,
    TrainingConfig,
)
from d9d.loop.component.checkpoint.export import WeightExporter
from d9d.loop.component.checkpoint.storage import Checkpoint
from d9d.loop.component.ranks import ALONE
from d9d.loop.event.catalogue.train import EVENT_TRAIN_STEP_PRE, EventStepContext

from .toy_job import (
    StoppedError,
    ToyDataset,
    ToyModelProvider,
    configure_inference,
    configure_training,
    inference_config,
    same_tensors,
    training_config,
    weights_of,
)


class FrozenProvider(ModelProvider):
    """Provides the toy model on the meta device, of which only the last layer is trained."""

    def initialize_model_stage(self, ctx: InitializeModelStageContext) -> InitializeModelStageResult:
        with torch.device("meta"):
            model = ToyModelProvider().initialize_model_stage(ctx).model
        assert isinstance(model, nn.Sequential)
        model[0].requires_grad_(requires_grad=False)
        return InitializeModelStageResult(model=model)


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """Weights of another run."""
    trainer = configure_training(training_config(seed=3))
    trainer.train()
    trainer.export(tmp_path / "base")
    return tmp_path / "base"


def configure(base: Path, folder: Path) -> Trainer:
    checkpointing = CheckpointingConfig(folder=folder, period_steps=1, trainable_only=True)
    return configure_training(
        training_config(checkpointing, source_checkpoint=base),
        model_provider=FrozenProvider(),
        optimizer_provider=lambda ctx: torch.optim.AdamW(ctx.parameters(), lr=0.1),
    )


def stop_in_last_step(ctx: EventStepContext) -> None:
    if ctx.stepper.is_last:
        raise StoppedError


def test_a_run_resumes_with_frozen_weights_from_its_source(base: Path, tmp_path: Path) -> None:
    """It ends as a run that was never stopped, and its checkpoints hold the trained layer alone."""
    uninterrupted = configure(base, tmp_path / "a")
    uninterrupted.train()
    stopped = configure(base, tmp_path / "b")
    stopped.event_bus.subscribe(EVENT_TRAIN_STEP_PRE, stop_in_last_step)
    with pytest.raises(StoppedError):
        stopped.train()
    resumed = configure(base, tmp_path / "b")
    resumed.train()
    weights = weights_of(resumed.modules[0])

    assert same_tensors(weights, weights_of(uninterrupted.modules[0]))
    assert torch.equal(weights["0.weight"], load_file(base / "model.safetensors")["0.weight"])
    assert Checkpoint(tmp_path / "b" / "step-3").read("model")["model"].keys() == {"2.weight", "2.bias"}


@pytest.mark.parametrize(("layer", "is_trained"), [(0, True), (2, False)], ids=["unfrozen", "frozen"])
def test_a_layer_that_was_trained_for_some_steps_is_in_the_checkpoints(
    layer: int,
    is_trained: bool,  # noqa: FBT001 -- a case
    base: Path,
    tmp_path: Path,
) -> None:
    """Else a run that resumes would take the layer from the source, as if it had never been trained."""

    def configure_switching(folder: Path) -> Trainer:
        def switch(ctx: EventStepContext) -> None:
            if ctx.stepper.current_step == 1:
                trainer.modules[0].get_submodule(str(layer)).requires_grad_(is_trained)
                trainer.modules[0].get_submodule("0").weight.requires_grad_()  # something is always trained

        trainer = configure(base, folder)
        trainer.event_bus.subscribe(EVENT_TRAIN_STEP_PRE, switch)
        return trainer

    uninterrupted = configure_switching(tmp_path / "a")
    uninterrupted.train()
    stopped = configure_switching(tmp_path / "b")
    stopped.event_bus.subscribe(EVENT_TRAIN_STEP_PRE, stop_in_last_step)
    with pytest.raises(StoppedError):
        stopped.train()
    resumed = configure_switching(tmp_path / "b")
    resumed.train()

    assert same_tensors(weights_of(resumed.modules[0]), weights_of(uninterrupted.modules[0]))


def test_the_best_checkpoint_is_completed_with_frozen_weights_of_the_source(base: Path, tmp_path: Path) -> None:
    """In a process that has not trained."""

    def configured() -> Trainer:
        checkpointing = CheckpointingConfig(
            folder=tmp_path / "best", trainable_only=True, keep_best=KeepBest(metric="validation/loss")
        )
        return configure_training(
            training_config(checkpointing, source_checkpoint=base),
            model_provider=FrozenProvider(),
            evaluations={"validation": Evaluation(dataset_provider=ToyDataset(2))},
        )

    trained, fresh = configured(), configured()
    trained.train()
    fresh.load_best()

    assert same_tensors(weights_of(fresh.modules[0]), weights_of(trained.modules[0]))


def test_a_run_does_not_resume_over_other_frozen_weights(base: Path, tmp_path: Path) -> None:
    """They would be a model that nobody has trained."""
    configure(base, tmp_path / "checkpoints").train()
    other = configure_training(training_config(seed=4))
    other.export(tmp_path / "other")

    with pytest.raises(CheckpointError, match=r"source_checkpoint is 'other \(.*\)' here and 'base \(.*\)' in the che"):
        configure(tmp_path / "other", tmp_path / "checkpoints").train()


@pytest.mark.parametrize(("value", "is_same"), [(0.5, True), (0.25, False)], ids=["same", "other"])
def test_frozen_weights_of_the_provider_must_be_the_same(value: float, is_same: bool, tmp_path: Path) -> None:  # noqa: FBT001 -- a case
    """Without a source, a provider that loads another base would make a model that nobody has trained."""

    class Provider(FrozenProvider):
        def __init__(self, value: float) -> None:
            self._value = value

        def initialize_model_stage(self, ctx: InitializeModelStageContext) -> InitializeModelStageResult:
            frozen = nn.Linear(3, 4).requires_grad_(requires_grad=False)
            nn.init.constant_(frozen.weight, self._value)
            nn.init.constant_(frozen.bias, 0.0)
            return InitializeModelStageResult(model=nn.Sequential(frozen, nn.Linear(4, 1)))

    def train(value: float, total_steps: int) -> None:
        checkpointing = CheckpointingConfig(folder=tmp_path, period_steps=1, trainable_only=True)
        config: TrainingConfig = training_config(checkpointing, total_steps=total_steps)
        configure_training(config, model_provider=Provider(value)).train()

    train(0.5, 2)
    if is_same:
        train(value, 3)
        return
    with pytest.raises(
        CheckpointError, match=r"another job:\n  model_provider/frozen_weights is '\w+' here and '\w+' in"
    ):
        train(value, 3)


def test_an_export_of_trained_weights_loads_over_its_base(base: Path, tmp_path: Path) -> None:
    """Inference names both, the base first."""
    trainer = configure(base, tmp_path / "checkpoints")
    trainer.train()
    trainer.export(tmp_path / "adapter", trainable_only=True, name="adapter_model")
    run = configure_inference(
        inference_config(source_checkpoint=(base, tmp_path / "adapter")), model_provider=FrozenProvider()
    )
    run.infer()

    assert load_file(tmp_path / "adapter" / "adapter_model.safetensors").keys() == {"2.weight", "2.bias"}
    assert same_tensors(weights_of(run.modules[0]), weights_of(trainer.modules[0]))


def test_an_adapter_without_its_base_is_refused(base: Path, tmp_path: Path) -> None:
    """The frozen weights are missing, each by name."""
    trainer = configure(base, tmp_path / "checkpoints")
    trainer.export(tmp_path / "adapter", trainable_only=True)

    with pytest.raises(CheckpointError, match=r"missing: '0.weight' .*\n  missing: '0.bias'"):
        configure_inference(inference_config(source_checkpoint=tmp_path / "adapter"), model_provider=FrozenProvider())


def test_an_export_without_weights_is_refused(tmp_path: Path) -> None:
    """Where nothing is trainable."""
    model = nn.Linear(2, 2).requires_grad_(requires_grad=False)

    with pytest.raises(CheckpointError, match="has no weights to export"):
        WeightExporter([model], ALONE).export(tmp_path / "nothing", trainable_only=True)
    assert not list(tmp_path.iterdir())
