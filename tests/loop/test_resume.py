"""A run that is run again resumes from its newest checkpoint, bit for bit."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from d9d.core.protocol import LRSchedulerProtocol
from d9d.loop.component.checkpoint.state_dict import split_state
from d9d.loop.component.checkpoint.storage import Checkpoint
from d9d.loop.config import CheckpointingConfig, DataLoadingConfig
from d9d.loop.control import (
    ComputeLossContext,
    ComputeLossResult,
    InitializeLRSchedulerContext,
    InitializeOptimizerContext,
)
from d9d.loop.event.catalogue.train import EVENT_TRAIN_OPTIMIZER_STEP_POST, EVENT_TRAIN_STEP_PRE, EventStepContext
from d9d.loop.run import Trainer

from .toy_job import (
    Sample,
    StoppedError,
    ToyDataset,
    ToyTask,
    configure_training,
    same_tensors,
    steps_saved,
    training_config,
    weights_of,
)

NUM_STEPS = 7


def stop_at(trainer: Trainer, step: int) -> None:
    """Train until a handler of a step raises."""

    def stop(ctx: EventStepContext) -> None:
        if ctx.stepper.current_step == step:
            raise StoppedError

    trainer.event_bus.subscribe(EVENT_TRAIN_OPTIMIZER_STEP_POST, stop)
    with pytest.raises(StoppedError):
        trainer.train()


def steps_of(trainer: Trainer) -> list[int]:
    """Train to the end, and return the steps that ran."""
    steps: list[int] = []
    trainer.event_bus.subscribe(EVENT_TRAIN_STEP_PRE, lambda ctx: steps.append(ctx.stepper.current_step))
    trainer.train()
    return steps


def same_checkpoints(left: Checkpoint, right: Checkpoint) -> bool:
    """Return whether two checkpoints have the same state, bit for bit."""
    (left_tensors, left_metadata), (right_tensors, right_metadata) = split_state(left.read()), split_state(right.read())
    return bool(left_metadata == right_metadata) and same_tensors(left_tensors, right_tensors)


class CountingTask(ToyTask):
    """Saves a count and a sum."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0
        self.loss_sum = torch.zeros(())

    def compute_loss(self, ctx: ComputeLossContext) -> ComputeLossResult:
        result = super().compute_loss(ctx)
        self.count += 1
        self.loss_sum += result.loss.detach()
        return result

    def state_dict(self) -> dict[str, Any]:
        return {"count": self.count, "loss_sum": self.loss_sum}

    def load_state_dict(self, state_dict: dict[str, Any], /) -> None:
        self.count, self.loss_sum = state_dict["count"], state_dict["loss_sum"]


def lambda_lr(ctx: InitializeLRSchedulerContext) -> LRSchedulerProtocol:
    return torch.optim.lr_scheduler.LambdaLR(ctx.torch_optimizer, lambda step: 1 / (1 + step))


def one_cycle(ctx: InitializeLRSchedulerContext) -> LRSchedulerProtocol:
    return torch.optim.lr_scheduler.OneCycleLR(ctx.torch_optimizer, max_lr=0.1, total_steps=ctx.total_steps + 1)


def cosine(ctx: InitializeLRSchedulerContext) -> LRSchedulerProtocol:
    return torch.optim.lr_scheduler.SequentialLR(
        ctx.torch_optimizer,
        [
            torch.optim.lr_scheduler.LinearLR(ctx.torch_optimizer, total_iters=2),
            torch.optim.lr_scheduler.CosineAnnealingLR(ctx.torch_optimizer, T_max=ctx.total_steps),
        ],
        milestones=[2],
    )


def sgd(ctx: InitializeOptimizerContext) -> torch.optim.Optimizer:
    return torch.optim.SGD(ctx.parameters(), lr=0.1, momentum=0.9)


def adam_of_two_groups(ctx: InitializeOptimizerContext) -> torch.optim.Optimizer:
    weights, biases = ([weight for weight in ctx.parameters() if weight.ndim == ndim] for ndim in (2, 1))
    groups: list[dict[str, Any]] = [{"params": weights, "weight_decay": 0.1}, {"params": biases}]
    return torch.optim.Adam(groups, lr=0.01, amsgrad=True)


@pytest.mark.parametrize("stopped_in", [0, 4, *(pytest.param(step, marks=pytest.mark.slow) for step in (1, 6))])
def test_a_resumed_run_ends_like_an_undisturbed_one(stopped_in: int, every_step: CheckpointingConfig) -> None:
    """Stopped by an exception and run again, it ends with the same weights."""
    undisturbed = configure_training(training_config(total_steps=NUM_STEPS))
    undisturbed.train()

    stop_at(configure_training(training_config(every_step, total_steps=NUM_STEPS)), stopped_in)
    resumed = configure_training(training_config(every_step, total_steps=NUM_STEPS))

    assert steps_of(resumed) == list(range(stopped_in, NUM_STEPS))
    assert same_tensors(weights_of(resumed.modules[0]), weights_of(undisturbed.modules[0]))


def test_a_run_resumed_twice_ends_like_an_undisturbed_one(every_step: CheckpointingConfig) -> None:
    """The first resume changes nothing for the second."""
    undisturbed = configure_training(training_config(total_steps=NUM_STEPS))
    undisturbed.train()
    config = training_config(every_step.model_copy(update={"period_steps": 2}), total_steps=NUM_STEPS)

    stop_at(configure_training(config), 3)
    stop_at(configure_training(config), 5)
    resumed = configure_training(config)

    assert steps_of(resumed) == [4, 5, 6]
    assert same_tensors(weights_of(resumed.modules[0]), weights_of(undisturbed.modules[0]))


@pytest.mark.parametrize(
    ("optimizer_provider", "lr_scheduler_provider"),
    [
        (sgd, lambda_lr),
        (adam_of_two_groups, one_cycle),
        (adam_of_two_groups, cosine),
        pytest.param(sgd, one_cycle, marks=pytest.mark.slow),
        pytest.param(sgd, cosine, marks=pytest.mark.slow),
        pytest.param(adam_of_two_groups, lambda_lr, marks=pytest.mark.slow),
    ],
)
def test_optimizers_and_schedulers_of_torch_are_resumed(
    optimizer_provider: Callable[[InitializeOptimizerContext], torch.optim.Optimizer],
    lr_scheduler_provider: Callable[[InitializeLRSchedulerContext], LRSchedulerProtocol],
    every_step: CheckpointingConfig,
) -> None:
    """Momentum, second moments, groups and rates are the same in each later checkpoint."""

    def configured(folder: str) -> Trainer:
        checkpointing = every_step.model_copy(update={"folder": every_step.folder / folder})
        return configure_training(
            training_config(checkpointing, total_steps=NUM_STEPS),
            optimizer_provider=optimizer_provider,
            lr_scheduler_provider=lr_scheduler_provider,
        )

    configured("undisturbed").train()
    stop_at(configured("resumed"), 4)
    configured("resumed").train()

    for step in range(1, NUM_STEPS + 1):
        left, right = (Checkpoint(every_step.folder / name / f"step-{step}") for name in ("undisturbed", "resumed"))
        assert same_checkpoints(left, right)


def test_the_state_of_the_task_is_resumed(every_step: CheckpointingConfig) -> None:
    """Without anything of the step that was lost."""
    undisturbed = CountingTask()
    configure_training(training_config(total_steps=NUM_STEPS), task=undisturbed).train()

    stop_at(configure_training(training_config(every_step, total_steps=NUM_STEPS), task=CountingTask()), 4)
    resumed = CountingTask()
    configure_training(training_config(every_step, total_steps=NUM_STEPS), task=resumed).train()

    assert resumed.count == undisturbed.count == NUM_STEPS * 2
    assert torch.equal(resumed.loss_sum, undisturbed.loss_sum)


def test_a_finished_run_that_is_run_again_trains_no_step(every_step: CheckpointingConfig) -> None:
    """It loads its last checkpoint, and reads no sample."""
    finished = configure_training(training_config(every_step))
    finished.train()

    class UnreadDataset(ToyDataset):
        def __getitem__(self, index: int) -> Sample:
            raise AssertionError("a sample was read")

    again = configure_training(training_config(every_step), dataset=UnreadDataset())

    assert steps_of(again) == []
    assert same_tensors(weights_of(again.modules[0]), weights_of(finished.modules[0]))
    assert steps_saved(every_step.folder) == [1, 2, 3]


def test_a_run_that_saves_ends_like_one_that_does_not(every_step: CheckpointingConfig) -> None:
    """Saving draws no random numbers and changes no weights."""
    saving = configure_training(training_config(every_step))
    saving.train()
    plain = configure_training(training_config())
    plain.train()

    assert same_tensors(weights_of(saving.modules[0]), weights_of(plain.modules[0]))


def test_a_run_is_resumed_with_another_number_of_workers(every_step: CheckpointingConfig) -> None:
    """It does not affect which samples a step takes."""
    undisturbed = configure_training(training_config())
    undisturbed.train()

    stop_at(configure_training(training_config(every_step)), 1)
    resumed = configure_training(training_config(every_step, data_loading=DataLoadingConfig(num_workers=1)))
    resumed.train()

    assert same_tensors(weights_of(resumed.modules[0]), weights_of(undisturbed.modules[0]))


@pytest.mark.parametrize("seed", [0, 1, 2**40])
def test_runs_with_one_seed_are_equal(seed: int) -> None:
    """The seed decides initial weights, dropout and the order of the data."""
    first = configure_training(training_config(seed=seed))
    first.train()
    torch.rand(7)
    second = configure_training(training_config(seed=seed))
    second.train()

    assert same_tensors(weights_of(first.modules[0]), weights_of(second.modules[0]))


def test_runs_with_two_seeds_differ() -> None:
    """In their initial weights."""
    first, second = (configure_training(training_config(seed=seed)) for seed in (0, 1))

    assert not same_tensors(weights_of(first.modules[0]), weights_of(second.modules[0]))
