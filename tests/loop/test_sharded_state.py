"""The names in the state of models and optimizers are the same for any mesh and any wrapper."""

from typing import Any

import pytest
import torch
from torch import nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper

from d9d.loop.component.checkpoint.sharded_state import ModelState, OptimizerState
from d9d.loop.component.checkpoint.state_dict import StateError, merge_metadata, split_state

from .toy_job import same_tensors


def two_layers() -> nn.Sequential:
    return nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))


def stepped(optimizer: torch.optim.Optimizer, model: nn.Module) -> torch.optim.Optimizer:
    """Take one step."""
    model(torch.ones(4, 2)).sum().backward()
    optimizer.step()
    return optimizer


def test_wrappers_are_not_part_of_names() -> None:
    """Compiled and checkpointed layers are saved and loaded under the names of the bare layers."""
    plain, wrapped = two_layers(), two_layers()
    wrapped[0] = torch.compile(wrapped[0], backend="eager")  # type: ignore[assignment] # it is a module
    wrapped[1] = checkpoint_wrapper(wrapped[1])
    state = ModelState([wrapped])

    assert state.state_dict().keys() == plain.state_dict().keys()
    state.load_state_dict(plain.state_dict())
    assert same_tensors(state.state_dict(), plain.state_dict())
    assert list(state.parameter_names().values()) == list(plain.state_dict())


def test_stages_that_share_a_name_are_refused() -> None:
    """One weight would overwrite the other."""
    with pytest.raises(StateError, match=r"two stages on this rank have a weight named '0.weight': name weights as"):
        ModelState([two_layers(), two_layers()]).state_dict()


def test_an_optimizer_with_a_parameter_outside_of_the_model_is_refused() -> None:
    """There is no name for it."""
    model = two_layers()
    optimizer = torch.optim.SGD([*model.parameters(), nn.Parameter(torch.zeros(7))], lr=0.1)

    with pytest.raises(
        StateError, match=r"a parameter, param_groups\[0\]\['params'\]\[4\] of shape \[7\], that is not in the model"
    ):
        OptimizerState(optimizer, ModelState([model])).state_dict()


def test_an_optimizer_loads_into_groups_in_another_order() -> None:
    """Settings and moments follow the names of the parameters, and a group may be empty."""
    model = two_layers()
    weights, biases = ([part for part in model.parameters() if part.ndim == ndim] for ndim in (2, 1))
    groups: list[dict[str, Any]] = [{"params": weights, "lr": 0.5}, {"params": biases}]
    optimizer = stepped(torch.optim.Adam(groups, lr=0.1), model)
    reordered: list[dict[str, Any]] = [{"params": biases}, {"params": []}, {"params": list(reversed(weights))}]
    other = torch.optim.Adam(reordered, lr=0.2)

    OptimizerState(other, ModelState([model])).load_state_dict(
        OptimizerState(optimizer, ModelState([model])).state_dict()
    )

    assert [group["lr"] for group in other.param_groups] == [0.1, 0.2, 0.5]
    for parameter, moments in optimizer.state.items():
        assert same_tensors(other.state[parameter], moments)


def test_param_names_of_a_group_stay_local() -> None:
    """On another mesh a group has other parameters."""
    whole = two_layers()
    optimizer = stepped(torch.optim.Adam(list(whole.named_parameters())), whole)
    saved = OptimizerState(optimizer, ModelState([whole])).state_dict()
    stage = nn.Sequential(whole[0])
    other = torch.optim.Adam(list(stage.named_parameters()))
    selected = {**saved, "state": {name: saved["state"][name] for name in ("0.weight", "0.bias")}}

    OptimizerState(other, ModelState([stage])).load_state_dict(selected)

    assert other.param_groups[0]["param_names"] == ["0.weight", "0.bias"]
    (weight, _) = stage.parameters()
    assert same_tensors(other.state[weight], optimizer.state[weight])


def test_parameters_saved_with_different_settings_do_not_load_into_one_group() -> None:
    """The error names two of them and the setting."""
    model = two_layers()
    weights, biases = ([part for part in model.parameters() if part.ndim == ndim] for ndim in (2, 1))
    groups: list[dict[str, Any]] = [{"params": weights, "lr": 0.5}, {"params": biases}]
    saved = OptimizerState(torch.optim.Adam(groups, lr=0.1), ModelState([model])).state_dict()
    other = OptimizerState(torch.optim.Adam(model.parameters()), ModelState([model]))

    with pytest.raises(StateError, match=r"0.weight and 0.bias are in one .* with different lr: 0.5 and 0.1"):
        other.load_state_dict(saved)


def test_jobs_are_compared_by_parameter_groups() -> None:
    """Each group counts once, whichever rank holds its parameters."""
    model = two_layers()
    optimizer = OptimizerState(torch.optim.SGD(model.parameters(), lr=0.25), ModelState([model]))

    groups = dict(optimizer.summarize(split_state(optimizer.state_dict())[1])["dict"])["param_groups"]

    assert len(groups) == 1
    assert ["lr", 0.25] in groups[0]["dict"]
    assert groups[0]["dict"][-1] == ["num_parameters", 4]


def metadata_of(state: Any) -> Any:
    return split_state(state)[1]


def test_metadata_of_all_ranks_is_merged() -> None:
    """Each rank adds its keys; values under a common key are the same, NaN included."""
    nan = float("nan")
    first = metadata_of({"model": {"a": torch.zeros(2)}, "steps": 3, "loss": nan})
    second = metadata_of({"model": {"b": torch.zeros(3)}, "steps": 3, "loss": float("nan"), "more": [1]})

    merged = merge_metadata([first, second])

    assert str(merged) == str(
        metadata_of({"model": {"a": torch.zeros(2), "b": torch.zeros(3)}, "steps": 3, "loss": nan, "more": [1]})
    )


@pytest.mark.parametrize(
    ("left", "right", "message"),
    [
        ({"a": {"b": 1}}, {"a": {"b": 2}}, "'a/b' is 1 on one rank and 2 on another"),
        (
            {"a": torch.zeros(2)},
            {"a": torch.zeros(3)},
            r"'a' is float32\[2\] on one rank and float32\[3\] on another",
        ),
        ({"a": {}}, {"a": None}, "'a' is a dict of 0 on one rank and None on another"),
        ({"a": [1]}, {"a": [1, 2]}, r"'a' is a sequence of 1: \[1\] on one rank and a sequence of 2"),
    ],
)
def test_metadata_that_differs_under_one_key_is_refused(left: Any, right: Any, message: str) -> None:
    """With the path and two of the values."""
    with pytest.raises(StateError, match=message):
        merge_metadata([metadata_of(left), metadata_of(right)])
