"""What a run that resumes does with settings that differ from its checkpoint, and where it may start from."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.optim.lr_scheduler import ExponentialLR, LambdaLR

from d9d.core.protocol import LRSchedulerProtocol
from d9d.loop.component import LRSchedule, OptimizerBuilder
from d9d.loop.component.checkpoint.files import CheckpointError
from d9d.loop.component.checkpoint.state_dict import StateError
from d9d.loop.component.checkpoint.storage import Checkpoint
from d9d.loop.config import CheckpointingConfig, ConfigurationError, DataLoadingConfig, ResumeConfig, TrainingConfig
from d9d.loop.control import (
    ComputeLossContext,
    ComputeLossResult,
    InitializeLRSchedulerContext,
    InitializeOptimizerContext,
)
from d9d.loop.event.catalogue.train import (
    EVENT_TRAIN_DATA_LOADER_READY,
    EVENT_TRAIN_OPTIMIZER_STEP_PRE,
    EVENT_TRAIN_STEP_POST,
    EVENT_TRAIN_STEP_PRE,
    EventStepContext,
)
from d9d.loop.run import Trainer

from .toy_job import (
    Listen,
    ToyDataset,
    ToyTask,
    configure_training,
    listen_to_nothing,
    same_tensors,
    steps_saved,
    training_config,
    weights_of,
)


class Noting(ToyTask):
    """Notes the samples of each micro-batch."""

    def __init__(self, listen: Listen = listen_to_nothing) -> None:
        super().__init__(listen)
        self.samples: list[int] = []

    def compute_loss(self, ctx: ComputeLossContext) -> ComputeLossResult:
        self.samples += ctx.batch["index"].tolist()
        return super().compute_loss(ctx)


def saving_to(folder: Path) -> CheckpointingConfig:
    return CheckpointingConfig(folder=folder, period_steps=1, num_to_keep=100)


def rates_of(trainer: Trainer) -> list[float]:
    """Train, and return the learning rate of each step."""
    rates: list[float] = []
    trainer.event_bus.subscribe(
        EVENT_TRAIN_OPTIMIZER_STEP_PRE, lambda ctx: rates.append(trainer.optimizer.param_groups[0]["lr"])
    )
    trainer.train()
    return rates


def exponential(ctx: InitializeLRSchedulerContext) -> LRSchedulerProtocol:
    return ExponentialLR(ctx.torch_optimizer, gamma=0.5)


def test_a_finished_run_that_is_asked_for_more_steps_trains_them(tmp_path: Path) -> None:
    """It ends like a run that had them from the start."""
    undisturbed = configure_training(training_config(total_steps=6))
    undisturbed.train()
    configure_training(training_config(saving_to(tmp_path), total_steps=3)).train()

    longer = configure_training(training_config(saving_to(tmp_path), total_steps=6))
    longer.train()

    assert same_tensors(weights_of(longer.modules[0]), weights_of(undisturbed.modules[0]))


def test_a_run_with_fewer_steps_than_are_complete_is_refused(tmp_path: Path) -> None:
    """The error says how many it needs."""
    configure_training(training_config(saving_to(tmp_path), total_steps=3)).train()

    with pytest.raises(CheckpointError, match=r"total_steps is 2, and .*step-3 has 3 complete steps: set"):
        configure_training(training_config(saving_to(tmp_path), total_steps=2)).train()


@pytest.mark.parametrize(
    "schedule",
    [LRSchedule.linear(warmup_steps=2), LRSchedule.cosine(final_fraction=0.1), LRSchedule.wsd(decay_steps=2)],
)
def test_our_schedules_follow_the_new_number_of_steps(schedule: LRSchedule, tmp_path: Path) -> None:
    """From the checkpoint on, the learning rates are those of a run that had it from the start."""
    expected = rates_of(configure_training(training_config(total_steps=8), lr_scheduler_provider=schedule))
    first = training_config(saving_to(tmp_path), total_steps=4)
    configure_training(first, lr_scheduler_provider=schedule).train()

    longer = configure_training(training_config(saving_to(tmp_path), total_steps=8), lr_scheduler_provider=schedule)

    assert rates_of(longer) == expected[4:]


@pytest.mark.parametrize("before", [LRSchedule.linear(), exponential])
@pytest.mark.parametrize("after", [LRSchedule.cosine(), exponential])
def test_another_schedule_continues_at_the_step_of_the_checkpoint(before: Any, after: Any, tmp_path: Path) -> None:
    """Whatever the old one was."""
    expected = rates_of(configure_training(training_config(total_steps=6), lr_scheduler_provider=after))
    folder = saving_to(tmp_path)
    stopped = configure_training(training_config(folder, total_steps=6), lr_scheduler_provider=before)
    for ctx in stopped.steps():
        if ctx.stepper.current_step == 3:
            break

    resumed = configure_training(training_config(folder, total_steps=6), lr_scheduler_provider=after)

    assert rates_of(resumed) == expected[3:]


def test_new_options_of_the_optimizer_are_adopted_and_its_moments_kept(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Each is one line of the log."""
    configure_training(training_config(saving_to(tmp_path), total_steps=3)).train()
    config = training_config(saving_to(tmp_path), total_steps=4, max_gradient_norm=0.5)
    resumed = configure_training(
        config, optimizer_provider=OptimizerBuilder(torch.optim.AdamW, lr=0.25, weight_decay=0.5)
    )
    seen: list[dict[str, Any]] = []

    def note(ctx: EventStepContext) -> None:
        group = resumed.optimizer.param_groups[0]
        (parameter, *_) = group["params"]
        assert isinstance(resumed.optimizer, torch.optim.Optimizer)
        seen.append({**group, "step": resumed.optimizer.state[parameter]["step"].item()})

    resumed.event_bus.subscribe(EVENT_TRAIN_OPTIMIZER_STEP_PRE, note)
    with caplog.at_level("INFO"):
        resumed.train()

    assert [(each["lr"], each["weight_decay"], each["step"]) for each in seen] == [(0.25, 0.5, 3)]
    lines = {record.getMessage() for record in caplog.records if record.getMessage().startswith("adopted ")}
    assert lines == {
        "adopted total_steps=4, which was 3 in the checkpoint",
        "adopted max_gradient_norm=0.5, which was 1.0 in the checkpoint",
        "adopted optimizer/param_groups/0/lr=0.25, which was 0.001 in the checkpoint",
        "adopted optimizer/param_groups/0/weight_decay=0.5, which was 0.01 in the checkpoint",
        "adopted the learning rates of this run, advanced by 3 steps",
    }


def test_an_option_that_a_handler_has_changed_survives_another_learning_rate(tmp_path: Path) -> None:
    """Only what the settings change is taken from them.

    People's runs took their weight decay from the settings: NVIDIA/Megatron-LM#7468, NVIDIA-NeMo/Automodel#3883.
    """

    def configure(lr: float, total_steps: int) -> Trainer:
        def change(ctx: EventStepContext) -> None:
            if ctx.stepper.current_step == 1:
                trainer.optimizer.param_groups[0]["weight_decay"] = 0.75

        trainer = configure_training(
            training_config(saving_to(tmp_path), total_steps=total_steps),
            optimizer_provider=OptimizerBuilder(torch.optim.AdamW, lr=lr, weight_decay=0.5),
        )
        trainer.event_bus.subscribe(EVENT_TRAIN_STEP_PRE, change)
        trainer.train()
        return trainer

    configure(0.5, 3)
    group = configure(0.25, 4).optimizer.param_groups[0]

    assert (group["lr"], group["weight_decay"]) == (0.25, 0.75)


def decay_by_function(ctx: InitializeLRSchedulerContext) -> LRSchedulerProtocol:
    assert isinstance(ctx.optimizer, torch.optim.Optimizer)
    return LambdaLR(ctx.optimizer, lambda step: 1 - step / ctx.total_steps)


def test_functions_of_the_total_steps_follow_the_new_ones_at_once(tmp_path: Path) -> None:
    """The first step of the resumed run had the learning rate at the end of the old schedule.

    Others follow the old total to the end: deepinsight/insightface#2143.
    """
    rates: list[float] = []
    for total_steps in (4, 8):
        trainer = configure_training(
            training_config(saving_to(tmp_path), total_steps=total_steps),
            optimizer_provider=OptimizerBuilder(torch.optim.SGD, lr=1.0),
            lr_scheduler_provider=decay_by_function,
        )
        optimizer = trainer.optimizer
        trainer.event_bus.subscribe(
            EVENT_TRAIN_OPTIMIZER_STEP_PRE, lambda ctx, of=optimizer: rates.append(of.param_groups[0]["lr"])
        )
        trainer.train()

    assert rates == [1.0, 0.75, 0.5, 0.25, 0.5, 0.375, 0.25, 0.125]


def test_what_changed_is_in_the_lineage_of_later_checkpoints(tmp_path: Path) -> None:
    """With the checkpoint, both values, and the changes before."""
    configure_training(training_config(saving_to(tmp_path), total_steps=1)).train()
    configure_training(training_config(saving_to(tmp_path), total_steps=2)).train()
    configure_training(training_config(saving_to(tmp_path), total_steps=3, precision="bf16-autocast")).train()

    lineage = Checkpoint(tmp_path / "step-3").manifest()["lineage"]
    assert [(entry["step"], entry["changes"]) for entry in lineage] == [
        (1, {"total_steps": [1, 2]}),
        (2, {"total_steps": [2, 3], "precision": ["fp32", "bf16-autocast"]}),
    ]
    assert [Path(entry["path"]).name for entry in lineage] == ["step-1", "step-2"]


def samples_after(folder: Path, num_steps: int, dataset: ToyDataset | None = None, **changes: Any) -> list[int]:
    """Stop a run after some steps of the data order, and return the samples that a changed run reads then."""
    first = configure_training(training_config(saving_to(folder), total_steps=12))
    for ctx in first.steps():
        if ctx.stepper.current_step == num_steps:
            break
    task = Noting()
    allow = [*changes, *(["num_samples"] if dataset else [])]
    config = training_config(saving_to(folder), total_steps=12, resume=ResumeConfig(allow=allow), **changes)
    configure_training(config, task=task, dataset=dataset).train()
    return task.samples


def order(seed: int, **settings: Any) -> list[int]:
    """Return the samples that a run with this seed reads from its start."""
    task = Noting()
    configure_training(training_config(total_steps=12, seed=seed, **settings), task=task).train()
    return task.samples


def test_a_new_seed_takes_effect_with_the_next_pass(tmp_path: Path) -> None:
    """The pass of twelve samples that runs ends in its old order."""
    samples = samples_after(tmp_path, 4, seed=7)

    assert samples[:8] == order(0)[16:24]
    assert samples[8:32] == order(7)[24:48]


def test_a_new_batch_size_continues_at_the_first_sample_that_was_not_read(tmp_path: Path) -> None:
    """No sample is read twice, and none is left out."""
    samples = samples_after(tmp_path, 4, global_batch_size=6)

    assert samples[:32] == order(0, global_batch_size=4)[16:48]


def test_a_larger_dataset_takes_effect_with_the_next_pass(tmp_path: Path) -> None:
    """The pass that runs has its old samples."""
    samples = samples_after(tmp_path, 4, ToyDataset(20))

    assert samples[:8] == order(0)[16:24]
    assert sorted(samples[8:28]) == list(range(20))


def test_a_dataset_that_shrinks_within_a_pass_is_refused(tmp_path: Path) -> None:
    """Samples that are still to be read are gone."""
    with pytest.raises(ConfigurationError, match="middle of a pass over 12, of which 8 are still to be read"):
        samples_after(tmp_path, 4, ToyDataset(11))


def test_a_dataset_may_shrink_between_two_passes(tmp_path: Path) -> None:
    """Then no sample is missing."""
    samples = samples_after(tmp_path, 3, ToyDataset(8))

    assert sorted(samples[:8]) == list(range(8))


def test_a_changed_order_is_resumed_exactly(tmp_path: Path) -> None:
    """Also when the run is interrupted again, in the pass that ends in its old order and after it."""
    undisturbed = samples_after(tmp_path / "undisturbed", 4, seed=7)
    for resumed_at in (5, 8):
        folder = tmp_path / f"resumed-{resumed_at}"
        samples_after(folder, 4, seed=7)
        for step in range(resumed_at + 1, 13):
            shutil.rmtree(folder / f"step-{step}")
        task = Noting()
        configure_training(training_config(saving_to(folder), total_steps=12, seed=7), task=task).train()
        assert task.samples == undisturbed[(resumed_at - 4) * 4 :]


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_first_look_at_the_data_does_not_matter(num_workers: int, tmp_path: Path) -> None:
    """A handler that reads a batch before the run resumes leaves no plan of the order that the run started with."""
    expected = samples_after(tmp_path / "expected", 4, seed=7)
    train_for = training_config(saving_to(tmp_path / "run"), total_steps=12)
    for ctx in configure_training(train_for).steps():
        if ctx.stepper.current_step == 4:
            break
    task = Noting(lambda bus: bus.subscribe(EVENT_TRAIN_DATA_LOADER_READY, lambda ctx: next(iter(ctx.data_loader))))
    config = training_config(
        saving_to(tmp_path / "run"),
        total_steps=12,
        seed=7,
        resume=ResumeConfig(allow=["seed"]),
        data_loading=DataLoadingConfig(num_workers=num_workers),
    )
    configure_training(config, task=task).train()

    assert task.samples == expected


def trained_for(folder: Path, total_steps: int, **settings: Any) -> Trainer:
    trainer = configure_training(training_config(saving_to(folder), total_steps=total_steps, **settings))
    trainer.train()
    return trainer


def test_a_checkpoint_of_another_folder_is_branched_into_the_own_one(tmp_path: Path) -> None:
    """The run continues there, and its first folder stays as it is."""
    undisturbed = configure_training(training_config(total_steps=5))
    undisturbed.train()
    trained_for(tmp_path / "main", 3)

    branch = ResumeConfig(checkpoint=tmp_path / "main" / "step-2")
    branched = trained_for(tmp_path / "branch", 5, resume=branch)

    assert steps_saved(tmp_path / "main") == [1, 2, 3]
    assert steps_saved(tmp_path / "branch") == [3, 4, 5]
    assert same_tensors(weights_of(branched.modules[0]), weights_of(undisturbed.modules[0]))


def test_a_branch_that_is_run_again_continues_from_its_own_checkpoints(tmp_path: Path) -> None:
    """The same command line resumes it after an interruption."""
    trained_for(tmp_path / "main", 3)
    branch = ResumeConfig(checkpoint=tmp_path / "main")
    trained_for(tmp_path / "branch", 5, resume=branch)
    steps: list[int] = []
    again = configure_training(training_config(saving_to(tmp_path / "branch"), total_steps=6, resume=branch))
    again.event_bus.subscribe(EVENT_TRAIN_STEP_POST, lambda ctx: steps.append(ctx.stepper.current_step))
    again.train()

    assert steps == [5]


@pytest.mark.parametrize("is_own", [True, False], ids=["own-folder", "other-folder"])
def test_a_branch_continues_when_the_checkpoint_that_it_started_from_is_gone(is_own: bool, tmp_path: Path) -> None:  # noqa: FBT001 -- a case
    """Its own run removes old checkpoints, or that of the other folder does; the same command must still resume.

    People who name a checkpoint are preempted too, as in allenai/open-instruct#254.
    """
    main = tmp_path / "main"
    trained_for(main, 3)
    folder = main if is_own else tmp_path / "branch"
    branch = ResumeConfig(checkpoint=main / "step-2")
    keeping_one = CheckpointingConfig(folder=folder, period_steps=1, num_to_keep=1)
    configure_training(training_config(keeping_one, total_steps=5, resume=branch)).train()
    shutil.rmtree(main / "step-2", ignore_errors=True)

    configure_training(training_config(keeping_one, total_steps=6, resume=branch)).train()

    assert steps_saved(folder) == [6]


def test_a_folder_that_did_not_branch_off_the_wanted_checkpoint_is_refused(tmp_path: Path) -> None:
    """The run would continue another branch, though the settings name this checkpoint."""
    trained_for(tmp_path / "main", 3)
    trained_for(tmp_path / "branch", 4, resume=ResumeConfig(checkpoint=tmp_path / "main" / "step-1"))

    with pytest.raises(
        CheckpointError,
        match=r"branch/step-4 is of a run that did not branch off .*step-2'.* another checkpointing\.folder",
    ):
        trained_for(tmp_path / "branch", 5, resume=ResumeConfig(checkpoint=tmp_path / "main" / "step-2"))


def test_an_older_checkpoint_of_the_own_folder_is_resumed_without_removing_newer_ones(tmp_path: Path) -> None:
    """They are kept under another name, and a second run continues the new branch."""
    trained_for(tmp_path, 4)
    older = ResumeConfig(checkpoint=tmp_path / "step-2")
    for _ in range(2):
        trained_for(tmp_path, 4, resume=older, max_gradient_norm=0.5)

    assert steps_saved(tmp_path) == [1, 2, 3, 4]
    assert sorted(path.name for path in tmp_path.glob("abandoned-*")) == ["abandoned-step-3", "abandoned-step-4"]
    assert Checkpoint(tmp_path / "step-4").manifest()["settings"]["max_gradient_norm"] == 0.5


def test_an_older_checkpoint_is_resumed_even_if_newer_ones_resumed_from_it(tmp_path: Path) -> None:
    """Only a run that branched off it by name continues; one that was merely run again is taken back."""
    trained_for(tmp_path, 2)
    trained_for(tmp_path, 4)
    steps: list[int] = []

    back = ResumeConfig(checkpoint=tmp_path / "step-2")
    trainer = configure_training(
        training_config(saving_to(tmp_path), total_steps=4, resume=back, max_gradient_norm=0.5)
    )
    trainer.event_bus.subscribe(EVENT_TRAIN_STEP_POST, lambda ctx: steps.append(ctx.stepper.current_step))
    trainer.train()

    assert steps == [2, 3]


@pytest.mark.parametrize(("parts", "has_moments"), [("weights", False), ("weights_and_moments", True)])
def test_a_new_run_may_start_with_parts_of_a_checkpoint(parts: Any, has_moments: bool, tmp_path: Path) -> None:  # noqa: FBT001
    """At step 0, with the learning rate of the new run."""
    source = trained_for(tmp_path / "main", 3)
    resume = ResumeConfig(checkpoint=tmp_path / "main" / "step-3", parts=parts)
    config = training_config(saving_to(tmp_path / "new"), total_steps=2, seed=5, resume=resume)
    trainer = configure_training(config, optimizer_provider=OptimizerBuilder(torch.optim.AdamW, lr=0.25))
    at_start: list[Any] = []

    def note(ctx: EventStepContext) -> None:
        optimizer = trainer.optimizer
        assert isinstance(optimizer, torch.optim.Optimizer)
        at_start.append((ctx.stepper.current_step, len(optimizer.state) > 0, optimizer.param_groups[0]["lr"]))

    trainer.event_bus.subscribe(EVENT_TRAIN_OPTIMIZER_STEP_PRE, note)
    before = weights_of(source.modules[0])
    trainer.train()

    assert at_start[0] == (0, has_moments, 0.25)
    assert steps_saved(tmp_path / "new") == [1, 2]
    assert not same_tensors(before, weights_of(trainer.modules[0]))


def test_moments_of_parameters_that_a_new_run_does_not_train_are_refused(tmp_path: Path) -> None:
    """The parameters were added to the optimizer again, and trained."""
    trained_for(tmp_path / "main", 3)

    def last_layer(ctx: InitializeOptimizerContext) -> torch.optim.Optimizer:
        hidden, _, last = next(iter(ctx.modules)).children()
        hidden.requires_grad_(requires_grad=False)
        return torch.optim.AdamW(last.parameters())

    def branch(parts: Any) -> Trainer:
        resume = ResumeConfig(checkpoint=tmp_path / "main" / "step-3", parts=parts)
        config = training_config(saving_to(tmp_path / parts), total_steps=2, resume=resume)
        return configure_training(config, optimizer_provider=last_layer)

    refused = branch("weights_and_moments")
    with pytest.raises(
        StateError,
        match=r"moments of 2 parameters that the optimizer of this run does not have, such as '0\.(weight|bias)'",
    ):
        refused.train()
    assert not next(refused.modules[0].parameters()).requires_grad
    branch("weights").train()


def test_a_run_that_must_resume_does_not_start_fresh(tmp_path: Path) -> None:
    """A misspelt folder is found before a step is trained."""
    with pytest.raises(CheckpointError, match=r"resume\.mode='must' needs a checkpoint to .* has none"):
        trained_for(tmp_path, 3, resume=ResumeConfig(mode="must"))


def test_a_run_that_must_not_resume_refuses_old_checkpoints(tmp_path: Path) -> None:
    """It would mix two runs in one folder."""
    trained_for(tmp_path, 3, resume=ResumeConfig(mode="never"))

    with pytest.raises(CheckpointError, match=r"resume\.mode='never' starts a fresh .* has step-3 of"):
        trained_for(tmp_path, 3, resume=ResumeConfig(mode="never"))


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ({}, [1, 2]),
        ({"resume": ResumeConfig(allow=["stopped"])}, [1, 2, 3, 4, 5]),
        ({"total_steps": 6}, [*range(1, 7)]),
    ],
    ids=["again", "allowed", "more-steps"],
)
def test_a_run_that_a_handler_stopped_continues_only_if_asked(
    more: dict[str, Any], expected: list[int], tmp_path: Path
) -> None:
    """By `allow=["stopped"]`, or by more steps."""
    stopped = configure_training(training_config(saving_to(tmp_path), total_steps=5))
    stopped.event_bus.subscribe(EVENT_TRAIN_STEP_POST, lambda ctx: ctx.control.stop("enough"), once=True)
    stopped.train()

    configure_training(training_config(saving_to(tmp_path), **{"total_steps": 5, **more})).train()

    assert steps_saved(tmp_path) == expected


def test_a_checkpoint_is_refused_as_the_folder_of_checkpoints(tmp_path: Path) -> None:
    """The run would start from 0 in it."""
    trained_for(tmp_path, 3)

    with pytest.raises(ConfigurationError, match=r"is itself a checkpoint.*resume=ResumeConfig\(checkpoint="):
        configure_training(training_config(saving_to(tmp_path / "step-3")))


def test_a_checkpoint_without_data_position_is_resumed_by_its_settings(tmp_path: Path) -> None:
    """As earlier versions wrote them."""
    undisturbed = order(0)
    trained_for(tmp_path, 4)
    path = tmp_path / "step-4" / "checkpoint.json"
    manifest = json.loads(path.read_text(encoding="utf-8"))
    del manifest["data_position"], manifest["settings"]["optimizer_class"], manifest["settings"]["lr_scheduler_class"]
    path.write_text(json.dumps(manifest), encoding="utf-8")
    task = Noting()
    config: TrainingConfig = training_config(saving_to(tmp_path), total_steps=12)
    configure_training(config, task=task).train()

    assert task.samples == undisturbed[16:]
