"""Inference runs the model over all samples once, in eval mode, with the weights that it was told to take."""

from pathlib import Path

import pytest
import torch
from torch import nn

from d9d.loop.component.checkpoint.files import CheckpointError
from d9d.loop.component.checkpoint.storage import Checkpoint
from d9d.loop.config import CheckpointingConfig
from d9d.loop.control import InferenceTask, ProcessOutputsContext
from d9d.loop.event import Event
from d9d.loop.event.catalogue.inference import EVENT_INFERENCE_STEP_POST, EVENT_INFERENCE_STEP_PRE, EventStepContext

from .toy_job import (
    StoppedError,
    ToyDataset,
    ToyInferenceTask,
    ToyModelProvider,
    configure_inference,
    configure_training,
    inference_config,
    same_tensors,
    training_config,
    weights_of,
)


@pytest.fixture
def training(tmp_path: Path) -> CheckpointingConfig:
    """Checkpoints of a finished training run of three steps, one after each."""
    checkpointing = CheckpointingConfig(folder=tmp_path / "training", period_steps=1)
    configure_training(training_config(checkpointing)).train()
    return checkpointing


@pytest.fixture
def own(tmp_path: Path) -> CheckpointingConfig:
    """Settings that save inference itself after each step."""
    return CheckpointingConfig(folder=tmp_path / "inference", period_steps=1)


def test_forward_passes_run_in_eval_and_inference_mode() -> None:
    """During each pass dropout is off and nothing is recorded for gradients."""
    modes: list[tuple[bool, bool, bool]] = []
    run = configure_inference(inference_config())
    run.modules[0].register_forward_hook(
        lambda module, inputs, outputs: modes.append(
            (module.training, torch.is_inference_mode_enabled(), outputs.requires_grad)
        )
    )

    run.infer()

    assert modes == [(False, True, False)] * 6


def test_outputs_are_processed_in_inference_mode() -> None:
    """Whatever the task computes of the outputs records nothing either."""
    modes: list[bool] = []

    class ModeTask(ToyInferenceTask):
        def process_outputs(self, ctx: ProcessOutputsContext) -> None:
            modes.append(torch.is_inference_mode_enabled())

    configure_inference(inference_config(), task=ModeTask()).infer()

    assert modes == [True] * 6
    assert not torch.is_inference_mode_enabled()


def test_predictions_are_those_of_the_model_itself() -> None:
    """The loop adds nothing to what the model computes."""
    task, dataset = ToyInferenceTask(), ToyDataset()
    run = configure_inference(inference_config(), task=task, dataset=dataset)

    run.infer()

    torch.testing.assert_close(torch.tensor(task.predictions), run.modules[0].eval()(dataset.features)[:, 0].detach())


@pytest.mark.parametrize("num_samples", [1, 4, 5, 7, 11])
def test_each_sample_is_seen_once_and_in_order(num_samples: int) -> None:
    """The last step, and the last micro-batch in it, may be smaller than the others."""
    task = ToyInferenceTask()
    sizes: list[int] = []
    run = configure_inference(inference_config(), task=task, dataset=ToyDataset(num_samples))
    run.modules[0].register_forward_hook(lambda module, inputs, outputs: sizes.append(len(outputs)))

    run.infer()

    assert task.indices == list(range(num_samples))
    assert sizes == [2] * (num_samples // 2) + [1] * (num_samples % 2)
    assert run.stepper.total_steps == -(-num_samples // 4)


def test_weights_come_from_the_newest_checkpoint_of_a_folder(training: CheckpointingConfig) -> None:
    """Inference after training uses what training ended with."""
    trained = configure_training(training_config(training))
    trained.train()
    run = configure_inference(inference_config(source_checkpoint=training.folder, seed=1))
    assert not same_tensors(weights_of(run.modules[0]), weights_of(trained.modules[0]))

    run.infer()

    assert same_tensors(weights_of(run.modules[0]), weights_of(trained.modules[0]))


def test_weights_come_from_the_checkpoint_that_is_named(training: CheckpointingConfig) -> None:
    """One checkpoint may be asked for instead of the newest."""
    chosen = Checkpoint(training.folder / "step-2")
    run = configure_inference(inference_config(source_checkpoint=chosen.path))

    run.infer()

    assert same_tensors(weights_of(run.modules[0]), chosen.read("model")["model"])


def test_a_damaged_newest_checkpoint_is_passed_over_with_a_warning(
    training: CheckpointingConfig, caplog: pytest.LogCaptureFixture
) -> None:
    """Inference loads the newest complete checkpoint, and logs a warning about the damaged one."""
    (training.folder / "step-3" / "state.json").unlink()

    run = configure_inference(inference_config(source_checkpoint=training.folder))
    run.infer()

    assert same_tensors(weights_of(run.modules[0]), Checkpoint(training.folder / "step-2").read("model")["model"])
    assert "its file state.json is missing" in caplog.text
    assert "using " in caplog.text


def test_a_damaged_checkpoint_that_is_named_is_refused(training: CheckpointingConfig) -> None:
    """No other one is taken in its place; the model is not even built."""
    provider = ToyModelProvider()
    (training.folder / "step-3" / "state.json").write_text("{")

    with pytest.raises(CheckpointError, match=r"source_checkpoint=.*step-3.* cannot be loaded: its file state.json"):
        configure_inference(
            inference_config(source_checkpoint=training.folder / "step-3"),
            model_provider=provider,
        )
    assert provider.num_built == 0


@pytest.mark.parametrize("name", ["missing", "step-7"])
def test_a_missing_source_is_refused_before_the_model_is_built(name: str, tmp_path: Path) -> None:
    """Neither a folder without checkpoints nor a checkpoint that is not there can be a source."""
    provider = ToyModelProvider()

    with pytest.raises(CheckpointError, match=f"source_checkpoint=.*{name}"):
        configure_inference(inference_config(source_checkpoint=tmp_path / name), model_provider=provider)
    assert provider.num_built == 0


def test_weights_of_another_shape_are_refused_by_name(training: CheckpointingConfig) -> None:
    """The error names each weight that differs, with both shapes."""
    config = inference_config(source_checkpoint=training.folder)

    with pytest.raises(CheckpointError) as caught:
        configure_inference(config, model_provider=ToyModelProvider(num_hidden=5))
    assert "shape: '0.weight' is float32[5, 3] in the model and float32[4, 3] in the weights" in str(caught.value)


def test_weights_under_other_names_are_refused_by_name(training: CheckpointingConfig) -> None:
    """Also if the model has changed since it was built; it keeps its own weights then."""
    run = configure_inference(inference_config(source_checkpoint=training.folder))
    run.modules[0].extra = nn.Parameter(torch.zeros(2))
    initial = weights_of(run.modules[0])

    with pytest.raises(CheckpointError, match=r"missing: 'extra' \(float32\[2\]\)"):
        run.infer()
    assert same_tensors(initial, weights_of(run.modules[0]))


@pytest.mark.parametrize("event", [EVENT_INFERENCE_STEP_PRE, EVENT_INFERENCE_STEP_POST], ids=lambda event: event.id)
@pytest.mark.parametrize("period_steps", [1, 2])
def test_a_stopped_inference_goes_on_and_processes_each_sample_once(
    event: Event[EventStepContext], period_steps: int, own: CheckpointingConfig
) -> None:
    """What the task kept is as if the run had never been stopped, wherever that was."""
    checkpointing = own.model_copy(update={"period_steps": period_steps})
    left_alone = ToyInferenceTask()
    configure_inference(inference_config(), task=left_alone).infer()

    def stop_in_last_step(ctx: EventStepContext) -> None:
        if ctx.stepper.is_last:
            raise StoppedError

    stopped = configure_inference(inference_config(checkpointing))
    stopped.event_bus.subscribe(event, stop_in_last_step)
    with pytest.raises(StoppedError):
        stopped.infer()
    resumed_task = ToyInferenceTask()
    resumed = configure_inference(inference_config(checkpointing), task=resumed_task)
    num_passes: list[int] = []
    resumed.modules[0].register_forward_hook(lambda *_: num_passes.append(1))
    resumed.infer()

    assert resumed_task.indices == list(range(12))
    assert resumed_task.predictions == left_alone.predictions
    assert len(num_passes) == 2


def test_inference_is_not_resumed_with_other_weights(training: CheckpointingConfig, own: CheckpointingConfig) -> None:
    """Outputs of two sets of weights do not mix in one run."""
    configure_inference(inference_config(own, source_checkpoint=training.folder / "step-2")).infer()
    other = configure_inference(inference_config(own, source_checkpoint=training.folder / "step-3"))

    with pytest.raises(CheckpointError, match=r"source_checkpoint is 'step-3 \(\w+\)' here and 'step-2 \(\w+\)' in"):
        other.infer()


def test_inference_does_not_resume_from_a_training_run(training: CheckpointingConfig) -> None:
    """A folder that holds the checkpoints of training is not taken for one of inference."""
    with pytest.raises(CheckpointError, match="loop is 'inference' here and 'train' in the checkpoint"):
        configure_inference(inference_config(training)).infer()


def test_an_inference_task_must_say_what_to_do_with_outputs() -> None:
    """It cannot be made without `process_outputs`."""
    with pytest.raises(TypeError, match="process_outputs"):
        InferenceTask()  # type: ignore[abstract]
