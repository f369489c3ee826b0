"""A run resumes into a model that has changed, with a mapping from the weights of its checkpoints."""

import functools
from pathlib import Path

import pytest
import torch
from torch import nn

from d9d import CheckpointError, CheckpointingConfig, Trainer, TrainingConfigurator, WeightMapping, WeightRule
from d9d.loop.component import OptimizerBuilder
from d9d.loop.component.checkpoint.sharded_state import ModelState
from d9d.loop.component.checkpoint.storage import Checkpoint
from d9d.loop.config import TrainingConfig

from .toy_job import NUM_FEATURES, ToyDataset, ToyTask, same_tensors, training_config, weights_of

NUM_HIDDEN = 4


class Old(nn.Module):
    """Two projections in one matrix."""

    def __init__(self) -> None:
        super().__init__()
        self.both = nn.Linear(NUM_FEATURES, 2 * NUM_HIDDEN)
        self.head = nn.Linear(NUM_HIDDEN, 1)

    def forward(self, input: torch.Tensor) -> torch.Tensor:  # noqa: A002 -- the name of the task
        left, right = self.both(input).chunk(2, dim=-1)
        outputs: torch.Tensor = self.head(left.tanh() * right)
        return outputs


class New(nn.Module):
    """The same, with a matrix each, and other names."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Linear(NUM_FEATURES, NUM_HIDDEN), nn.Linear(NUM_FEATURES, NUM_HIDDEN)
        self.output = nn.Linear(NUM_HIDDEN, 1)

    def forward(self, input: torch.Tensor) -> torch.Tensor:  # noqa: A002 -- the name of the task
        outputs: torch.Tensor = self.output(self.left(input).tanh() * self.right(input))
        return outputs


class Larger(New):
    """With one more weight."""

    def __init__(self) -> None:
        super().__init__()
        self.bonus = nn.Parameter(torch.zeros(1))

    def forward(self, input: torch.Tensor) -> torch.Tensor:  # noqa: A002 -- the name of the task
        return super().forward(input) + self.bonus


RULES = [WeightRule("both.*", ["left.*", "right.*"]), WeightRule("head.*", "output.*")]
MAPPING = WeightMapping(rules=RULES)


def configure(model: type[nn.Module], folder: Path, mapping: WeightMapping | None = None, **settings: int) -> Trainer:
    config: TrainingConfig = training_config(CheckpointingConfig(folder=folder, period_steps=1), **settings)
    return TrainingConfigurator(
        config=config,
        task=ToyTask(),
        model_provider=model,
        dataset_provider=ToyDataset(),
        optimizer_provider=OptimizerBuilder(torch.optim.AdamW, lr=0.1),
        resume_mapping=mapping,
    ).configure()


def old_run(folder: Path, num_steps: int) -> dict[str, torch.Tensor]:
    trainer = configure(Old, folder, total_steps=num_steps)
    trainer.train()
    return weights_of(trainer.modules[0])


def as_new(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    split = {
        f"{side}.{kind}": weights[f"both.{kind}"].chunk(2)[index]
        for kind in ("weight", "bias")
        for index, side in enumerate(("left", "right"))
    }
    return {**split, **{f"output.{kind}": weights[f"head.{kind}"] for kind in ("weight", "bias")}}


def test_a_run_continues_in_a_changed_model_as_if_it_had_not_changed(tmp_path: Path) -> None:
    """Weights, moments and step counts follow the rules, so that later steps are the same."""
    expected = as_new(old_run(tmp_path / "unchanged", 5))
    old_run(tmp_path / "changed", 3)
    trainer = configure(New, tmp_path / "changed", MAPPING, total_steps=5)
    trainer.train()
    found = weights_of(trainer.modules[0])

    assert found.keys() == expected.keys()
    assert all(torch.allclose(found[name], expected[name], atol=1e-6) for name in expected)
    state = Checkpoint(tmp_path / "changed" / "step-5").read("optimizer")["optimizer"]["state"]
    assert state.keys() == expected.keys()
    assert {int(moments["step"]) for moments in state.values()} == {5}


def test_later_checkpoints_need_no_mapping(tmp_path: Path) -> None:
    """They have the new names; a mapping that is still given changes nothing."""
    old_run(tmp_path, 3)
    configure(New, tmp_path, MAPPING, total_steps=4).train()
    with_mapping = configure(New, tmp_path, MAPPING, total_steps=4)
    with_mapping.train()
    without = configure(New, tmp_path, total_steps=4)
    without.train()

    assert same_tensors(weights_of(with_mapping.modules[0]), weights_of(without.modules[0]))


def test_new_weights_keep_their_initial_values_and_have_no_moments(tmp_path: Path) -> None:
    """If the mapping allows them to be missing."""
    old_run(tmp_path, 3)
    mapping = WeightMapping(rules=RULES, missing=["bonus"])
    trainer = configure(Larger, tmp_path, mapping, total_steps=5)
    trainer.train()
    state = Checkpoint(tmp_path / "step-5").read("optimizer")["optimizer"]["state"]

    assert int(state["bonus"]["step"]) == 2
    assert int(state["left.weight"]["step"]) == 5
    with pytest.raises(CheckpointError, match=r"missing: 'bonus' \(float32\[1\]\)"):
        resume_without_permission(tmp_path / "other")


def resume_without_permission(folder: Path) -> None:
    old_run(folder, 3)
    configure(Larger, folder, MAPPING, total_steps=5).train()


def test_a_changed_model_needs_a_mapping(tmp_path: Path) -> None:
    """Without one the checkpoint is refused, with each weight."""
    old_run(tmp_path, 3)

    with pytest.raises(CheckpointError, match=r"is a checkpoint of another job:\n  model/left.weight is"):
        configure(New, tmp_path, total_steps=5).train()


def test_a_changed_model_on_the_meta_device_is_initialised_where_needed(tmp_path: Path) -> None:
    """What the checkpoint holds is not; the rest is, by `reset_parameters`."""
    old_run(tmp_path, 3)

    def on_meta() -> nn.Module:
        with torch.device("meta"):
            model = nn.ModuleDict({"body": New()})
        return Wrapped(model)

    class Wrapped(nn.Module):
        def __init__(self, inner: nn.ModuleDict) -> None:
            super().__init__()
            self.inner = inner
            with torch.device("meta"):
                self.scale = nn.LayerNorm(1)

        def forward(self, input: torch.Tensor) -> torch.Tensor:  # noqa: A002 -- the name of the task
            outputs: torch.Tensor = self.scale(self.inner["body"](input))
            return outputs

    rules = [WeightRule("both.*", [f"inner.body.{side}.*" for side in ("left", "right")])]
    mapping = WeightMapping(rules=[*rules, WeightRule("head.*", "inner.body.output.*")], missing=["scale.*"])
    trainer = TrainingConfigurator(
        config=training_config(CheckpointingConfig(folder=tmp_path), total_steps=3),
        task=ToyTask(),
        model_provider=on_meta,
        dataset_provider=ToyDataset(),
        optimizer_provider=OptimizerBuilder(torch.optim.AdamW, lr=0.1),
        resume_mapping=mapping,
    ).configure()
    trainer.train()
    weights = weights_of(trainer.modules[0])

    assert torch.equal(weights["scale.weight"], torch.ones(1))
    assert weights["inner.body.left.weight"].any()


class Classes(nn.Module):
    """A body and a head, on the meta device."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        with torch.device("meta"):
            self.body, self.head = nn.Linear(NUM_FEATURES, 4), nn.Linear(4, num_classes)

    def forward(self, input: torch.Tensor) -> torch.Tensor:  # noqa: A002 -- the name of the task
        outputs: torch.Tensor = self.head(self.body(input)).mean(-1, keepdim=True)
        return outputs


def test_a_head_of_another_shape_is_initialised_and_the_rest_resumed(tmp_path: Path) -> None:
    """Also on the meta device, where it would be zero."""
    mapping = WeightMapping(missing=["head.*"], unexpected=["head.*"])
    weights = []
    for num_classes, total_steps in ((7, 3), (3, 3)):
        trainer = TrainingConfigurator(
            config=training_config(CheckpointingConfig(folder=tmp_path, period_steps=1), total_steps=total_steps),
            task=ToyTask(),
            model_provider=functools.partial(Classes, num_classes),
            dataset_provider=ToyDataset(),
            optimizer_provider=OptimizerBuilder(torch.optim.AdamW, lr=0.1),
            resume_mapping=mapping,
        ).configure()
        trainer.train()
        weights.append(weights_of(trainer.modules[0]))

    assert torch.equal(weights[1]["body.weight"], weights[0]["body.weight"])
    assert weights[1]["head.weight"].shape == (3, 4)
    assert weights[1]["head.weight"].all()


class Tied(Old):
    """Uses one matrix twice."""

    def __init__(self) -> None:
        super().__init__()
        self.same = nn.Linear(NUM_FEATURES, 2 * NUM_HIDDEN)
        self.same.weight = self.both.weight


def test_a_checkpoint_that_holds_a_tied_weight_under_each_name_is_resumed_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As older versions have saved it."""
    with monkeypatch.context() as patch:
        patch.setattr(ModelState, "aliases", lambda state: {})
        configure(Tied, tmp_path, total_steps=3).train()
    assert "same.weight" in Checkpoint(tmp_path / "step-3").read("model")["model"]
    trainer = configure(Tied, tmp_path, total_steps=4)
    trainer.train()

    assert "same.weight" not in Checkpoint(tmp_path / "step-4").read("model")["model"]
    assert trainer.stepper.current_step == 4
