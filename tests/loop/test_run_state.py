"""A run never continues silently with other state than its user expects."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from d9d.core.protocol import OptimizerProtocol
from d9d.loop.component import OptimizerBuilder
from d9d.loop.component.checkpoint.files import CheckpointError
from d9d.loop.component.model import evaluation_mode
from d9d.loop.config import CheckpointingConfig
from d9d.loop.control import (
    ComputeLossContext,
    ComputeLossResult,
    InitializeModelStageContext,
    InitializeModelStageResult,
    InitializeOptimizerContext,
    ModelProvider,
)
from d9d.loop.event import Event, EventBus
from d9d.loop.event.catalogue.train import (
    EVENT_TRAIN_GRADIENTS_READY,
    EVENT_TRAIN_MODEL_STAGES_READY,
    EVENT_TRAIN_OPTIMIZER_STEP_POST,
    EVENT_TRAIN_READY,
    EVENT_TRAIN_STEP_POST,
    EVENT_TRAIN_STEP_PRE,
    EventModelStagesReadyContext,
    EventStepContext,
)
from d9d.loop.run import Trainer

from .toy_job import (
    StoppedError,
    ToyTask,
    configure_inference,
    configure_training,
    inference_config,
    same_tensors,
    steps_saved,
    training_config,
    weights_of,
)


def test_a_complete_run_does_not_begin_again() -> None:
    """It would load the weights to start from once more."""
    trainer = configure_training(training_config())
    trainer.train()
    before = weights_of(trainer.modules[0])

    with pytest.raises(RuntimeError, match=r"this run is complete, after 3 of 3 steps.* call configure\(\) again"):
        trainer.train()
    assert same_tensors(before, weights_of(trainer.modules[0]))


def test_a_failed_run_does_not_begin_again() -> None:
    """It would take the step that failed a second time."""

    def fail(ctx: object) -> None:
        raise StoppedError

    trainer = configure_training(training_config())
    trainer.event_bus.subscribe(EVENT_TRAIN_STEP_POST, fail)
    with pytest.raises(StoppedError):
        trainer.train()

    with pytest.raises(RuntimeError, match="this run has ended early, after 0 of 3 steps"):
        trainer.train()


def test_inference_does_not_begin_again() -> None:
    """Its outputs would be processed twice."""
    run = configure_inference(inference_config())
    run.infer()

    with pytest.raises(RuntimeError, match="this run is complete"):
        run.infer()


@pytest.mark.parametrize("event", [EVENT_TRAIN_MODEL_STAGES_READY, EVENT_TRAIN_READY, EVENT_TRAIN_GRADIENTS_READY])
def test_a_handler_that_replaces_a_module_in_the_list_is_named(event: Event[Any]) -> None:
    """Nothing of the replacement would be trained."""

    def replace(ctx: Any) -> None:
        ctx.modules[0] = nn.Linear(3, 1)

    task = ToyTask(lambda bus: bus.subscribe(event, replace))
    with pytest.raises(RuntimeError, match=rf"{replace.__qualname__} of event '{event.id}' changed the list `modules`"):
        configure_training(training_config(), task=task).train()


def test_each_handler_gets_a_list_of_its_own() -> None:
    """Of the same modules."""
    seen: list[list[nn.Module]] = []

    def note_first(ctx: EventModelStagesReadyContext) -> None:
        seen.append(ctx.modules)

    def note_second(ctx: EventModelStagesReadyContext) -> None:
        seen.append(ctx.modules)

    def listen(bus: EventBus) -> None:
        bus.subscribe(EVENT_TRAIN_MODEL_STAGES_READY, note_first)
        bus.subscribe(EVENT_TRAIN_MODEL_STAGES_READY, note_second)

    configure_training(training_config(), task=ToyTask(listen))

    first, second = seen
    assert first is not second
    assert first == second


class Normalized(nn.Module):
    """Returns predictions through batch normalisation, and NaN when the features are NaN."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.5))
        self.norm = nn.BatchNorm1d(4)
        self.head = nn.Linear(4, 1)

    def forward(self, input: torch.Tensor) -> torch.Tensor:  # noqa: A002 -- the name in the task
        output: torch.Tensor = self.head(self.norm(self.backbone(input)))
        return output


class Provides(ModelProvider):
    """Provides a model.

    Args:
        model: The model.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model

    def initialize_model_stage(self, ctx: InitializeModelStageContext) -> InitializeModelStageResult:
        return InitializeModelStageResult(model=self._model)


def modes_in_steps(model: nn.Module) -> dict[str, bool]:
    """Train, and return the modes of the modules in the first step."""
    modes: dict[str, bool] = {}

    def note(ctx: EventStepContext) -> None:
        modes.update({name: module.training for name, module in model.named_modules()})

    trainer = configure_training(training_config(), model_provider=Provides(model))
    trainer.event_bus.subscribe(EVENT_TRAIN_STEP_PRE, note)
    trainer.train()
    return modes


def test_a_part_in_evaluation_mode_stays_in_it() -> None:
    """Such as a frozen backbone, whose dropout and statistics must not change."""
    model = Normalized()
    model.backbone.eval()

    modes = modes_in_steps(model)

    assert {name for name, is_training in modes.items() if not is_training} == {"backbone", "backbone.0", "backbone.1"}


def test_a_model_in_evaluation_mode_as_a_whole_is_trained() -> None:
    """`from_pretrained` returns it so."""
    assert all(modes_in_steps(Normalized().eval()).values())


def test_a_handler_that_changes_modes_is_noticed_and_named(caplog: pytest.LogCaptureFixture) -> None:
    """Such as one that evaluates the model and leaves it in evaluation mode; it is said once.

    At first all handlers are named that may have done it, then the one that does it again, although the modules are in
    that mode already. One that gives the modes back is not named.
    """
    trainer = configure_training(training_config(total_steps=4))

    def leave_in_evaluation_mode(ctx: EventStepContext) -> None:
        trainer.modules[0].eval()

    def evaluate(ctx: EventStepContext) -> None:
        with evaluation_mode(trainer.modules):
            heard.append(ctx.stepper.current_step)

    heard: list[int] = []
    trainer.event_bus.subscribe(EVENT_TRAIN_OPTIMIZER_STEP_POST, evaluate)
    trainer.event_bus.subscribe(EVENT_TRAIN_STEP_POST, leave_in_evaluation_mode)
    set_attribute = nn.Module.__setattr__
    trainer.train()

    line, named = [record.getMessage() for record in caplog.records if "evaluation mode" in record.getMessage()]
    assert line.startswith("before the forward passes of step 2, the task or a handler has switched modules")
    assert "evaluation mode: Sequential, 0, 1, 2." in line
    places = {
        each: f"{each.__module__}.{each.__qualname__} ({__file__}:{each.__code__.co_firstlineno})"
        for each in (evaluate, leave_in_evaluation_mode)
    }
    assert f"The handlers are: {', '.join(places.values())}. A handler that evaluates" in line
    assert named.startswith(
        f"handler {places[leave_in_evaluation_mode]} of event 'train.step.post' has switched modules"
    )
    assert heard == [0, 1, 2, 3]
    assert nn.Module.__setattr__ is set_attribute


class Poisoned(ToyTask):
    """Gives NaN to the model in the second step.

    Args:
        is_poisoned: Whether it does.
    """

    def compute_loss(self, ctx: ComputeLossContext) -> ComputeLossResult:
        loss = super().compute_loss(ctx).loss
        return ComputeLossResult(loss=loss * float("nan") if ctx.stepper.current_step == 1 else loss)


@pytest.mark.parametrize("total_steps", [2, 4])
def test_a_skipped_step_leaves_the_statistics_of_batch_normalisation_as_they_were(total_steps: int) -> None:
    """Its forward passes have changed them before the gradients were known."""
    trainer = configure_training(
        training_config(total_steps=total_steps, non_finite_gradients="skip"),
        task=Poisoned(),
        model_provider=Provides(Normalized()),
    )
    counts: list[int] = []
    means: list[torch.Tensor] = []
    (model,) = trainer.modules
    assert isinstance(model, Normalized)

    def note(ctx: EventStepContext) -> None:
        assert model.norm.num_batches_tracked is not None
        assert model.norm.running_mean is not None
        counts.append(int(model.norm.num_batches_tracked))
        means.append(model.norm.running_mean.clone())

    trainer.event_bus.subscribe(EVENT_TRAIN_STEP_POST, note)
    trainer.train()

    assert counts == [2, 2, 4, 6][:total_steps]
    assert torch.equal(means[0], means[1])


class Unfreezing:
    """Adds the first layer to the optimizer in the second step."""

    def __init__(self, trainer: Trainer) -> None:
        self._trainer = trainer

    def unfreeze(self, ctx: EventStepContext) -> None:
        if ctx.stepper.current_step == 1:
            first = next(iter(self._trainer.modules[0].children()))
            first.requires_grad_()
            optimizer = self._trainer.optimizer
            assert isinstance(optimizer, torch.optim.Optimizer)
            optimizer.add_param_group({"params": [*first.parameters()], "lr": 0.5})


class Frozen(ModelProvider):
    """Provides two layers, the first of which is frozen."""

    def initialize_model_stage(self, ctx: InitializeModelStageContext) -> InitializeModelStageResult:
        model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 1))
        for parameter in model[0].parameters():
            parameter.requires_grad = False
        return InitializeModelStageResult(model=model)


def trainable(ctx: InitializeOptimizerContext) -> OptimizerProtocol:
    return torch.optim.AdamW([each for each in ctx.parameters() if each.requires_grad], lr=0.1)


def everything(ctx: InitializeOptimizerContext) -> OptimizerProtocol:
    return torch.optim.AdamW(ctx.parameters(), lr=0.1)


def test_a_layer_that_was_unfrozen_is_trained_in_a_run_that_resumes(tmp_path: Path) -> None:
    """With its moments and its own learning rate: the run ends like an undisturbed one."""

    def configure(checkpointing: CheckpointingConfig | None) -> Trainer:
        trainer = configure_training(
            training_config(checkpointing, total_steps=6), model_provider=Frozen(), optimizer_provider=trainable
        )
        trainer.event_bus.subscribe(EVENT_TRAIN_STEP_PRE, Unfreezing(trainer).unfreeze)
        return trainer

    undisturbed = configure(None)
    undisturbed.train()
    folder = CheckpointingConfig(folder=tmp_path, period_steps=1)
    for ctx in configure(folder).steps():
        if ctx.stepper.current_step == 3:
            break
    resumed = configure(folder)
    resumed.train()

    assert [group["lr"] for group in resumed.optimizer.param_groups] == [0.1, 0.5]
    assert same_tensors(weights_of(resumed.modules[0]), weights_of(undisturbed.modules[0]))


@pytest.mark.parametrize("is_trained", [True, False], ids=["unfrozen", "frozen"])
def test_what_a_handler_froze_or_unfroze_once_stays_so_in_a_run_that_resumes(is_trained: bool, tmp_path: Path) -> None:  # noqa: FBT001 -- a case
    """The optimizer has the layer from the start; it was frozen again, or trained again, without a word.

    As in Lightning-AI/pytorch-lightning#21901.
    """

    def configure(checkpointing: CheckpointingConfig | None) -> Trainer:
        def switch(ctx: EventStepContext) -> None:
            if ctx.stepper.current_step == 2:
                first = next(iter(trainer.modules[0].children()))
                first.requires_grad_(is_trained)

        provider = Frozen() if is_trained else None
        trainer = configure_training(
            training_config(checkpointing, total_steps=7), model_provider=provider, optimizer_provider=everything
        )
        trainer.event_bus.subscribe(EVENT_TRAIN_STEP_PRE, switch)
        return trainer

    undisturbed = configure(None)
    undisturbed.train()
    folder = CheckpointingConfig(folder=tmp_path, period_steps=1)
    for num_steps in (4, 5):  # the second resumed run has it from the first
        for ctx in configure(folder).steps():
            if ctx.stepper.current_step == num_steps:
                break
    resumed = configure(folder)
    resumed.train()

    assert same_tensors(weights_of(resumed.modules[0]), weights_of(undisturbed.modules[0]))


def test_a_layer_that_the_provider_unfreezes_later_is_trained(tmp_path: Path) -> None:
    """Only what a handler changed is repeated; the provider's own choice may change between two runs."""
    folder = CheckpointingConfig(folder=tmp_path, period_steps=1)
    config = training_config(folder, total_steps=2)
    configure_training(config, model_provider=Frozen(), optimizer_provider=everything).train()

    class Unfrozen(ModelProvider):
        def initialize_model_stage(self, ctx: InitializeModelStageContext) -> InitializeModelStageResult:
            return InitializeModelStageResult(model=nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 1)))

    config = training_config(folder, total_steps=3)
    later = configure_training(config, model_provider=Unfrozen(), optimizer_provider=everything)
    later.train()

    assert all(parameter.requires_grad for parameter in later.modules[0].parameters())


def test_a_checkpoint_of_an_earlier_version_says_nothing_of_what_handlers_froze(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It is resumed as before, without a warning."""
    folder = CheckpointingConfig(folder=tmp_path, period_steps=1)
    configure_training(training_config(folder, total_steps=2)).train()
    state = tmp_path / "step-2" / "state.json"
    saved = json.loads(state.read_text(encoding="utf-8"))
    saved["dict"] = [[name, value] for name, value in saved["dict"] if name != "requires_grad"]
    # Of files their length is checked.
    state.write_text(json.dumps(saved).ljust(state.stat().st_size), encoding="utf-8")

    configure_training(training_config(folder, total_steps=3)).train()

    assert not [record for record in caplog.records if record.levelname == "WARNING"]


def test_two_trainers_of_one_process_do_not_share_a_folder(tmp_path: Path) -> None:
    """Each would overwrite the checkpoints of the other."""
    folder = CheckpointingConfig(folder=tmp_path)
    first = configure_training(training_config(folder))
    second = configure_training(training_config(folder))
    next(steps := first.steps())

    with pytest.raises(CheckpointError, match="another run of this process uses the checkpoints in"):
        second.train()
    steps.close()
    assert steps_saved(tmp_path) == []


def test_two_trainers_that_are_configured_before_either_trains_are_reproducible() -> None:
    """Neither takes random numbers of the other."""
    alone = []
    for seed in (1, 2):
        trainer = configure_training(training_config(seed=seed))
        trainer.train()
        alone.append(weights_of(trainer.modules[0]))

    both = [configure_training(training_config(seed=seed)) for seed in (1, 2)]
    torch.rand(7)
    for trainer, expected in zip(both, alone, strict=True):
        trainer.train()
        assert same_tensors(weights_of(trainer.modules[0]), expected)


def test_a_builder_of_optimizers_takes_only_what_is_trained() -> None:
    """A frozen layer is in no group, so that unfreezing it adds one."""
    trainer = configure_training(
        training_config(), model_provider=Frozen(), optimizer_provider=OptimizerBuilder(torch.optim.AdamW)
    )

    assert sum(len(group["params"]) for group in trainer.optimizer.param_groups) == 2
