"""What cannot work is refused at once, in words that say whose it is and what to do."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import IterableDataset

from d9d.loop.component.checkpoint.files import CheckpointError
from d9d.loop.component.checkpoint.storage import Checkpoint
from d9d.loop.config import CheckpointingConfig, ConfigurationError
from d9d.loop.control import (
    ComputeLossContext,
    ComputeLossResult,
    InitializeModelStageContext,
    InitializeModelStageResult,
    ModelProvider,
    TrainTask,
)
from d9d.loop.event.catalogue.train import EVENT_TRAIN_READY, EventTrainReadyContext
from d9d.loop.run import TrainingConfigurator

from .toy_job import (
    ToyDataset,
    ToyModelProvider,
    ToyTask,
    configure_inference,
    configure_training,
    inference_config,
    same_tensors,
    training_config,
    weights_of,
)


class OddLossTask(ToyTask):
    """Returns something else than a loss."""

    def __init__(self, result: Any) -> None:
        super().__init__()
        self._result = result

    def compute_loss(self, ctx: ComputeLossContext) -> ComputeLossResult:
        result: ComputeLossResult = self._result
        return result


@pytest.mark.parametrize(
    ("result", "expected"),
    [
        (None, r"OddLossTask.compute_loss returned None: return a ComputeLossResult\(...\)"),
        (torch.tensor(1.0), r"OddLossTask.compute_loss returned a Tensor: return a ComputeLossResult\(...\)"),
    ],
)
def test_a_task_that_returns_something_else_is_named(result: Any, expected: str) -> None:
    """The message names the method and the type to return."""
    with pytest.raises(TypeError, match=expected):
        configure_training(training_config(), task=OddLossTask(result)).train()


def test_a_loss_that_is_no_scalar_is_refused_with_its_shape() -> None:
    """Only a scalar has one gradient."""
    task = OddLossTask(ComputeLossResult(loss=torch.zeros(2, requires_grad=True)))
    with pytest.raises(
        ValueError, match=r"compute_loss returned a loss of shape \[2\]: return a scalar, such as its mean"
    ):
        configure_training(training_config(), task=task).train()


def test_a_dataset_provider_that_returns_a_bare_dataset_is_named() -> None:
    """The dataset goes into an `InitializeDatasetResult`."""
    provider: Any = lambda ctx: ToyDataset()  # noqa: E731 -- a provider may be a lambda
    with pytest.raises(TypeError, match=r"<lambda> returned a ToyDataset: return an InitializeDatasetResult\(...\)"):
        TrainingConfigurator(
            config=training_config(),
            task=ToyTask(),
            model_provider=ToyModelProvider(),
            dataset_provider=provider,
        ).configure()


class Stream(IterableDataset[torch.Tensor]):
    """Samples in a row, with a length."""

    def __iter__(self) -> Iterator[torch.Tensor]:
        return iter([torch.zeros(3)] * 3)

    def __len__(self) -> int:
        return 3


def test_inference_refuses_a_stream_of_samples_even_with_a_length() -> None:
    """The number of steps, and the samples of each, must be known."""
    with pytest.raises(
        ConfigurationError,
        match=r"Stream, is iterable, and the number of its samples must be known here: pass a dataset",
    ):
        configure_inference(inference_config(), dataset=Stream())


class FrozenModelProvider(ModelProvider):
    """Brings a model in which nothing can be trained."""

    def initialize_model_stage(self, ctx: InitializeModelStageContext) -> InitializeModelStageResult:
        return InitializeModelStageResult(model=nn.Linear(3, 1).requires_grad_(requires_grad=False))


def test_a_model_without_anything_to_train_is_refused() -> None:
    """The default optimizer has nothing to hold."""
    with pytest.raises(ConfigurationError, match="no parameter that requires gradients"):
        configure_training(training_config(), model_provider=FrozenModelProvider())


class ModuleTask(TrainTask, nn.Module):  # type: ignore[misc]  # the checker refuses it as well
    """A task that is a module as well."""

    __init__ = nn.Module.__init__


def test_a_task_that_is_a_module_is_refused() -> None:
    """Its weights would be in no checkpoint and on no device, without a word."""
    with pytest.raises(ConfigurationError, match=r"ModuleTask, is a torch module as well.*put them into the model"):
        configure_training(training_config(), task=ModuleTask())


@pytest.mark.parametrize("name", ["a_file", "a_file/below"])
def test_a_folder_that_cannot_hold_checkpoints_is_refused_before_the_model_is_built(name: str, tmp_path: Path) -> None:
    """Not at the first save, a thousand steps later."""
    (tmp_path / "a_file").write_text("mine")
    provider = ToyModelProvider()
    with pytest.raises(ConfigurationError, match=r"checkpointing\.folder='.*a_file.*' cannot be written to"):
        configure_training(training_config(CheckpointingConfig(folder=tmp_path / name)), model_provider=provider)
    assert provider.num_built == 0
    assert (tmp_path / "a_file").read_text() == "mine"


def test_a_file_that_bears_the_name_of_a_checkpoint_is_refused_and_kept(tmp_path: Path) -> None:
    """It would be in the way of that step's save."""
    (tmp_path / "step-2").write_text("mine")
    with pytest.raises(ConfigurationError, match="contains step-2, which is not a directory: move it elsewhere"):
        configure_training(training_config(CheckpointingConfig(folder=tmp_path)))
    assert (tmp_path / "step-2").read_text() == "mine"


@pytest.mark.parametrize("name", ["state.json", "tensors.json", "__0_0.distcp"])
def test_damage_that_keeps_the_size_is_refused_with_the_path(name: str, every_step: CheckpointingConfig) -> None:
    """The message says which checkpoint to remove."""
    configure_training(training_config(every_step)).train()
    damaged = every_step.folder / "step-3" / name
    damaged.write_bytes(b"\xff" * damaged.stat().st_size)

    with pytest.raises(CheckpointError, match=r"step-3 cannot be read .*: remove it to resume from"):
        configure_training(training_config(every_step)).train()


def test_a_checkpoint_that_was_copied_to_another_step_is_passed_over(
    every_step: CheckpointingConfig, caplog: pytest.LogCaptureFixture
) -> None:
    """A folder's name is not believed over what is in it."""
    trainer = configure_training(training_config(every_step))
    trainer.train()
    shutil.copytree(every_step.folder / "step-1", every_step.folder / "step-9")

    again = configure_training(training_config(every_step))
    again.train()

    assert same_tensors(weights_of(trainer.modules[0]), weights_of(again.modules[0]))
    assert "step-9 cannot be loaded: it was saved after 1 steps and has been renamed since" in caplog.text


def test_inference_does_not_go_on_with_the_weights_of_another_run(tmp_path: Path) -> None:
    """Inference notices that its source is another run, even if that has a checkpoint of the same name."""
    for seed, name in enumerate(("first", "second")):
        configure_training(training_config(CheckpointingConfig(folder=tmp_path / name), seed=seed)).train()
    own = CheckpointingConfig(folder=tmp_path / "inference", period_steps=1)
    configure_inference(inference_config(own, source_checkpoint=tmp_path / "first")).infer()

    with pytest.raises(CheckpointError, match=r"source_checkpoint is 'step-3 \(.*\)' here and 'step-3 \(.*\)' in the"):
        configure_inference(inference_config(own, source_checkpoint=tmp_path / "second")).infer()


def test_weights_of_another_model_are_refused_with_the_field_to_change(tmp_path: Path) -> None:
    """The remedy is that of inference."""
    configure_training(training_config(CheckpointingConfig(folder=tmp_path))).train()
    config = inference_config(source_checkpoint=tmp_path)
    with pytest.raises(CheckpointError, match="model that the weights belong to, set source_checkpoint to other"):
        configure_inference(config, model_provider=ToyModelProvider(num_hidden=5))


def test_handlers_of_ready_may_draw_random_numbers(every_step: CheckpointingConfig) -> None:
    """They run again in a resumed run, which ends like one that was left alone all the same."""

    def draw(ctx: EventTrainReadyContext) -> None:
        torch.rand(3)

    def train() -> dict[str, torch.Tensor]:
        trainer = configure_training(
            training_config(every_step, total_steps=6), task=ToyTask(lambda bus: bus.subscribe(EVENT_TRAIN_READY, draw))
        )
        trainer.train()
        return weights_of(trainer.modules[0])

    undisturbed = train()
    for checkpoint in Checkpoint.list_in(every_step.folder):
        if checkpoint.num_steps > 3:
            checkpoint.remove()

    assert same_tensors(undisturbed, train())
