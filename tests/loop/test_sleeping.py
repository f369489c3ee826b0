"""Between steps, the state of training sleeps on the host and returns as it was."""

import copy
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from readings import readings
from torch import nn

from d9d.loop.component import OptimizerBuilder
from d9d.loop.config import CheckpointingConfig
from d9d.loop.control import InitializeModelStageContext, InitializeModelStageResult
from d9d.loop.event.catalogue.train import (
    EVENT_TRAIN_SLEEP_POST,
    EVENT_TRAIN_SLEEP_PRE,
    EVENT_TRAIN_STEP_POST,
    EVENT_TRAIN_WAKE_POST,
    EVENT_TRAIN_WAKE_PRE,
    EventSleepContext,
)
from d9d.loop.run import Trainer

from .toy_job import ToyModelProvider, configure_training, same_tensors, steps_saved, training_config, weights_of

SGD = OptimizerBuilder(torch.optim.SGD, lr=0.1, momentum=0.9)
ALL = {"parameters", "gradients", "optimizer", "buffers"}


class NormalizingProvider(ToyModelProvider):
    """Provides a model with buffers, and a weight that two layers share."""

    def initialize_model_stage(self, ctx: InitializeModelStageContext) -> InitializeModelStageResult:
        model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.Linear(3, 3), nn.Dropout(0.2), nn.Linear(3, 1))
        model[2].weight = model[0].weight
        return InitializeModelStageResult(model=model)


def configure(checkpointing: CheckpointingConfig | None = None, **settings: Any) -> Trainer:
    return configure_training(
        training_config(checkpointing, total_steps=6, **settings), model_provider=NormalizingProvider()
    )


def state_of(trainer: Trainer) -> dict[str, dict[str, torch.Tensor]]:
    """Return all tensors of the state themselves, by tag and name."""
    model = trainer.modules[0]
    assert isinstance(trainer.optimizer, torch.optim.Optimizer)
    names: dict[torch.Tensor, str] = {parameter: name for name, parameter in model.named_parameters()}
    return {
        "parameters": dict(model.named_parameters()),
        "gradients": {name: each.grad for name, each in model.named_parameters() if each.grad is not None},
        "buffers": dict(model.named_buffers()),
        "optimizer": {
            f"{names[parameter]}.{key}": value
            for parameter, values in trainer.optimizer.state.items()
            for key, value in values.items()
        },
    }


def flat(state: dict[str, dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    return {f"{tag}.{name}": tensor for tag, tensors in state.items() for name, tensor in tensors.items()}


def num_bytes(tensors: Collection[torch.Tensor]) -> int:
    """Return the size of the memory that tensors use."""
    return sum({tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in tensors}.values())


@pytest.mark.parametrize("optimizer", [OptimizerBuilder(torch.optim.AdamW), SGD], ids=["AdamW", "SGD"])
def test_all_state_returns_bit_for_bit_in_the_same_tensors(optimizer: OptimizerBuilder) -> None:
    """Parameters, buffers and the state of the optimizer, with the keys of that state."""
    trainer = configure_training(
        training_config(total_steps=6), model_provider=NormalizingProvider(), optimizer_provider=optimizer
    )
    for ctx in trainer.steps():
        if ctx.stepper.current_step != 3:
            continue
        before = flat(state_of(trainer))
        values = copy.deepcopy({name: tensor.detach().clone() for name, tensor in before.items()})
        pointers = {name: id(tensor) for name, tensor in before.items()}

        trainer.sleep()
        trainer.wake()

        after = flat(state_of(trainer))
        assert len(after) > 15
        assert {name: id(tensor) for name, tensor in after.items()} == pointers
        assert same_tensors(after, values)


def test_memory_is_freed_while_the_state_sleeps() -> None:
    """The storages are empty; placeholders of one number each remain."""
    trainer = configure()
    for ctx in trainer.steps():
        if ctx.stepper.current_step != 2:
            continue
        state = list(flat(state_of(trainer)).values())
        aliases = [tensor.detach() for tensor in state]
        assert num_bytes(aliases) > 300

        trainer.sleep()

        assert num_bytes(aliases) == 0
        assert all(tensor.untyped_storage().nbytes() <= 8 for tensor in state)
        trainer.wake()
        assert num_bytes(aliases) == num_bytes(state) > 300


def test_a_run_that_sleeps_between_steps_ends_like_one_that_does_not() -> None:
    """Weights are the same, bit for bit."""
    expected = configure()
    expected.train()
    slept = configure()
    for _ in slept.steps():
        slept.sleep()
        assert slept.is_sleeping()
        slept.wake()
        assert not slept.is_sleeping()

    assert same_tensors(weights_of(slept.modules[0]), weights_of(expected.modules[0]))


@pytest.mark.parametrize("tag", sorted(ALL - {"gradients"}))
def test_only_what_is_named_sleeps(tag: Any) -> None:
    """The values of everything else can be read, and what sleeps reads as NaN or the smallest integer."""
    trainer = configure()
    for ctx in trainer.steps():
        if ctx.stepper.current_step != 2:
            continue
        before = {name: tensor.detach().clone() for name, tensor in flat(state_of(trainer)).items()}

        trainer.sleep({tag})

        for name, tensor in flat(state_of(trainer)).items():
            assert tensor.shape == before[name].shape
            if name.startswith(tag):
                assert not torch.equal(tensor, before[name])
                assert tensor.is_floating_point() is False or tensor.isnan().all()
            else:
                assert torch.equal(tensor, before[name])
        trainer.wake({tag})


def test_gradients_that_the_caller_has_computed_sleep_too() -> None:
    """Between steps of the loop there are none, unless the caller makes them."""
    trainer = configure()
    model = trainer.modules[0]
    model.train()
    model(torch.ones(2, 3)).sum().backward()
    gradients = {name: tensor.clone() for name, tensor in state_of(trainer)["gradients"].items()}

    trainer.sleep("gradients")
    assert all(tensor.isnan().all() for tensor in state_of(trainer)["gradients"].values())
    trainer.wake("gradients")

    assert len(gradients) == 7
    assert same_tensors(state_of(trainer)["gradients"], gradients)


def test_a_storage_sleeps_while_all_parts_that_use_it_sleep() -> None:
    """A buffer that is a view of a parameter can be read until the parameters and the buffers sleep."""
    trainer = configure()
    model = trainer.modules[0]
    weight = model.get_parameter("0.weight")
    model.register_buffer("row", weight.detach()[1])
    row = model.get_buffer("row")
    value = row.clone()

    trainer.sleep("parameters")
    assert torch.equal(row, value)
    trainer.sleep("buffers")
    assert row.isnan().all()
    trainer.wake("buffers")
    assert torch.equal(row, value)
    assert torch.equal(weight[1], value)
    trainer.wake()

    with torch.no_grad():
        weight.add_(1)
    assert torch.equal(row, value + 1)


def test_the_events_name_what_changes() -> None:
    """Parts that sleep already are ignored, and a call that changes nothing triggers nothing."""
    trainer = configure()
    seen: list[tuple[str, list[str], bool]] = []
    for event in (EVENT_TRAIN_SLEEP_PRE, EVENT_TRAIN_SLEEP_POST, EVENT_TRAIN_WAKE_PRE, EVENT_TRAIN_WAKE_POST):

        def note(ctx: EventSleepContext, name: str = event.id) -> None:
            assert ctx.stepper is trainer.stepper
            is_nan = bool(next(trainer.modules[0].parameters()).isnan().all())
            seen.append((name, sorted(ctx.tags), is_nan))

        trainer.event_bus.subscribe(event, lambda ctx, note=note: note(ctx))

    next(steps := trainer.steps())
    trainer.sleep("parameters")
    trainer.sleep("parameters")
    trainer.sleep(["parameters", "buffers"])
    trainer.wake()
    trainer.wake()
    steps.close()

    assert seen == [
        ("train.sleep.pre", ["parameters"], False),
        ("train.sleep.post", ["parameters"], True),
        ("train.sleep.pre", ["buffers"], True),
        ("train.sleep.post", ["buffers"], True),
        ("train.wake.pre", ["buffers", "parameters"], True),
        ("train.wake.post", ["buffers", "parameters"], False),
    ]


def test_a_step_with_sleeping_state_is_refused() -> None:
    """The error names what sleeps."""
    trainer = configure()
    steps = trainer.steps()
    next(steps)
    trainer.sleep({"optimizer", "buffers"})

    message = r"a step needs buffers, optimizer, .*: call trainer.wake\(\['buffers', 'optimizer'\]\) before it"
    with pytest.raises(RuntimeError, match=message):
        next(steps)


def test_training_cannot_begin_while_state_sleeps() -> None:
    """Loading a checkpoint would write into memory that is freed."""
    trainer = configure()
    trainer.sleep("optimizer")

    with pytest.raises(RuntimeError, match="training needs optimizer, which sleep"):
        trainer.train()
    trainer.wake()
    trainer.train()


@pytest.mark.parametrize(
    ("tag", "saves", "exports"),
    [("parameters", False, False), ("buffers", False, False), ("optimizer", False, True), ("gradients", True, True)],
)
def test_a_save_or_an_export_that_needs_what_sleeps_is_refused(
    tag: Any, tmp_path: Path, *, saves: bool, exports: bool
) -> None:
    """What needs only what is awake works."""
    trainer = configure(CheckpointingConfig(folder=tmp_path / "checkpoints", period_steps=None))
    for ctx in trainer.steps():
        if ctx.stepper.current_step != 1:
            continue
        trainer.sleep(tag)
        for is_possible, call, name in (
            (saves, trainer.save, "save"),
            (exports, lambda: trainer.export(tmp_path / "exported"), "export"),
        ):
            if is_possible:
                call()
            else:
                with pytest.raises(RuntimeError, match=rf"trainer.{name}\(\) needs {tag}, which sleep on the host"):
                    call()
        trainer.wake()

    assert (1 in steps_saved(tmp_path / "checkpoints")) == saves
    assert (tmp_path / "exported").exists() == exports


@pytest.mark.parametrize("method", ["sleep", "wake"])
def test_within_a_step_it_is_refused(method: str) -> None:
    """Also in handlers that run at the end of a step."""
    trainer = configure()
    trainer.event_bus.subscribe(EVENT_TRAIN_STEP_POST, lambda ctx: getattr(trainer, method)())

    with pytest.raises(RuntimeError, match=f"trainer.{method} was called within the loop"):
        trainer.train()


def test_unknown_tags_are_refused() -> None:
    """The error lists those that exist."""
    message = (
        r"trainer.sleep got the tags \['weights'\], which do not exist: use some of \['buffers', 'gradients', "
        r"'optimizer', 'parameters'\]"
    )
    with pytest.raises(ValueError, match=message):
        configure().sleep({"weights", "buffers"})  # type: ignore[arg-type] # what the test is about


def test_memory_that_does_not_belong_to_torch_is_refused_before_anything_moves() -> None:
    """All other tensors stay awake."""
    trainer = configure()
    model = trainer.modules[0]
    model.register_buffer("table", torch.from_numpy(np.zeros(3)))
    weights = weights_of(model)

    with pytest.raises(RuntimeError, match=r"a tensor of shape \[3\] among buffers cannot sleep"):
        trainer.sleep()

    assert not trainer.is_sleeping()
    assert same_tensors(weights_of(model), weights)


class StatelessOptimizer:
    """Has what the loop needs of an optimizer, and no more."""

    param_groups: list[dict[str, Any]] = []  # noqa: RUF012 -- empty

    def step(self, closure: None = None) -> None:
        """Do nothing."""

    def zero_grad(self, set_to_none: bool = True) -> None:  # noqa: FBT001, FBT002 -- as torch has it
        """Do nothing."""

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state_dict: dict[str, Any], /) -> None:
        """Do nothing."""


def test_an_optimizer_without_state_is_refused() -> None:
    """The other parts can sleep without it."""
    trainer = configure_training(training_config(), optimizer_provider=lambda ctx: StatelessOptimizer())

    with pytest.raises(RuntimeError, match=r"a .*Optimizer, cannot sleep, because it has no attribute"):
        trainer.sleep()
    trainer.sleep({"parameters", "buffers"})
    trainer.wake()


def test_a_step_of_a_run_that_never_sleeps_does_nothing_for_it() -> None:
    """The mechanism reads no value."""
    trainer = configure_training(training_config(device="meta"), optimizer_provider=OptimizerBuilder(torch.optim.SGD))

    with readings("meta") as found:
        trainer.train()

    assert found == []


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no CUDA device")
def test_the_memory_of_a_gpu_is_freed_and_filled_again() -> None:
    """That of all of the state; libraries may keep memory of their own, tens of megabytes on some devices."""
    trainer = configure_training(
        training_config(device="cuda"), model_provider=ToyModelProvider(num_hidden=2**20), optimizer_provider=SGD
    )
    for _ in trainer.steps():
        weights = {name: weight.cpu() for name, weight in weights_of(trainer.modules[0]).items()}
        num_bytes = 2 * sum(weight.nbytes for weight in weights.values())  # the momentum is as large
        awake = torch.cuda.memory_allocated()

        trainer.sleep()
        asleep = torch.cuda.memory_allocated()
        trainer.wake()

        assert awake - asleep > 0.95 * num_bytes
        assert torch.cuda.memory_allocated() == pytest.approx(awake, rel=0.05)
        returned = weights_of(trainer.modules[0])
        assert all(weight.is_cuda for weight in returned.values())
        assert same_tensors({name: weight.cpu() for name, weight in returned.items()}, weights)
