"""A model on the meta device gets its weights from the `reset_parameters` of its modules."""

import random

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

from d9d.core.settings import ConfigurationError
from d9d.loop.component.weight_init import initialize_weights

CPU = torch.device("cpu")


def on_meta(build: type[nn.Module]) -> nn.Module:
    with torch.device("meta"):
        return build()


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(3, 3)
        self.norm = nn.BatchNorm1d(3)
        self.second = nn.Linear(3, 3, dtype=torch.bfloat16)
        self.second.bias.requires_grad = False


def test_all_tensors_get_memory_and_values() -> None:
    """With their own dtype, buffers included; frozen parameters remain frozen."""
    model = on_meta(Network)
    initialize_weights(model, device=CPU, seed=0)

    assert isinstance(model.norm, nn.BatchNorm1d)
    assert isinstance(model.second, nn.Linear)
    assert model.norm.running_var is not None
    assert model.norm.running_var.tolist() == [1.0, 1.0, 1.0]
    assert model.second.weight.dtype == torch.bfloat16
    assert [name for name, parameter in model.named_parameters() if not parameter.requires_grad] == ["second.bias"]
    assert all(tensor.device == CPU and tensor.isfinite().all() for tensor in model.state_dict().values())


def weights_of(model: nn.Module, *, seed: int = 0) -> list[torch.Tensor]:
    initialize_weights(model, device=CPU, seed=seed)
    return [parameter.detach() for parameter in model.parameters()]


def test_weights_depend_only_on_the_seed_and_the_name() -> None:
    """Not on random numbers drawn before, or by other modules."""
    first, _, *_ = weights_of(on_meta(Network))
    torch.manual_seed(17)
    again, _, *_ = weights_of(on_meta(Network))
    other, _, *_ = weights_of(on_meta(Network), seed=1)
    alone = on_meta(Network)
    del alone.norm, alone.second
    apart, _ = weights_of(alone)

    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(first, apart)


def test_equal_modules_get_different_weights() -> None:
    """Because their names differ."""
    with torch.device("meta"):
        model = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False))
    first, second = weights_of(model)

    assert not torch.equal(first, second)


def test_a_compiled_model_has_the_same_weights() -> None:
    """The prefix that a wrapper adds to names has no effect."""
    compiled = torch.compile(on_meta(Network), backend="eager")
    assert isinstance(compiled, nn.Module)

    for weight, expected in zip(weights_of(compiled), weights_of(on_meta(Network)), strict=True):
        assert torch.equal(weight, expected)


def test_the_global_generators_are_unchanged() -> None:
    """Those of torch and of Python."""
    torch.manual_seed(5)
    random.seed(5)
    expected = torch.rand(2).tolist(), random.random()  # noqa: S311 -- not for secrets
    torch.manual_seed(5)
    random.seed(5)
    initialize_weights(on_meta(Network), device=CPU, seed=0)

    assert (torch.rand(2).tolist(), random.random()) == expected  # noqa: S311 -- not for secrets


def test_only_tensors_on_the_meta_device_are_initialised() -> None:
    """Others, in the same module or another, keep their values."""
    first, second = nn.Linear(2, 2), nn.Linear(2, 2)
    kept = [first.weight.detach().clone(), second.bias.detach().clone()]
    second.weight = nn.Parameter(second.weight.to("meta"))
    initialize_weights(nn.Sequential(first, second), device=CPU, seed=0)

    assert torch.equal(first.weight, kept[0])
    assert torch.equal(second.bias, kept[1])
    assert second.weight.isfinite().all()


def test_shared_weights_are_initialised_by_the_first_module() -> None:
    """The second module sees them, and initialises the rest."""
    with torch.device("meta"):
        model = nn.Sequential(nn.Embedding(4, 3), nn.Linear(3, 4))
        alone = nn.Sequential(nn.Embedding(4, 3))
        model[1].weight = model[0].weight
    weights = weights_of(model)

    assert model[1].weight is model[0].weight
    assert torch.equal(weights[0], weights_of(alone)[0])
    assert weights[1].isfinite().all()


class Bare(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(2, 2)
        self.scale = nn.Parameter(torch.ones(2))
        self.register_buffer("count", torch.zeros(2))


def test_a_module_without_reset_parameters_is_refused() -> None:
    """The error has its path, its class and its tensors."""
    with torch.device("meta"):
        model = nn.Sequential(nn.Linear(2, 2), Bare())
    with pytest.raises(ConfigurationError) as raised:
        initialize_weights(model, device=CPU, seed=0)

    assert str(raised.value) == (
        "modules have tensors on the meta device but no reset_parameters() to initialise them: 1 (Bare: scale, count). "
        "Define reset_parameters(), which must set all parameters and buffers of the module itself; or override "
        "initialize_module of the ModelProvider; or load them, with source_checkpoint; or build these modules on a "
        "real device"
    )


def test_a_parametrized_weight_is_refused() -> None:
    """Its module would initialise the computed weight instead of the parameters."""
    with torch.device("meta"):
        model = nn.Sequential(parametrizations.weight_norm(nn.Linear(2, 2)))
    with pytest.raises(ConfigurationError, match=r": 0.parametrizations.weight \(ParametrizationList: original0, orig"):
        initialize_weights(model, device=CPU, seed=0)


def test_tensors_with_weak_references_are_refused() -> None:
    """Torch's recurrent networks have them."""
    with torch.device("meta"):
        model = nn.Sequential(nn.GRU(2, 2, bias=False))
    with pytest.raises(
        ConfigurationError, match=r": 0 \(GRU: weight_ih_l0, weight_hh_l0\). Build this module on a real"
    ):
        initialize_weights(model, device=CPU, seed=0)


class Forgetful(Bare):
    def reset_parameters(self) -> None:
        self.scale.data.fill_(1.0)


def test_a_module_that_does_not_set_all_values_is_refused() -> None:
    """They would be uninitialised memory."""
    with pytest.raises(
        ConfigurationError,
        match=r"does not set these tensors, .*: the model itself \(Forgetful: count\)\. It must set all",
    ):
        initialize_weights(on_meta(Forgetful), device=CPU, seed=0)


def test_a_model_for_the_meta_device_is_not_initialised() -> None:
    """It has no values."""
    model = on_meta(Bare)
    initialize_weights(model, device=torch.device("meta"), seed=0)

    assert all(parameter.is_meta for parameter in model.parameters())


def test_what_is_loaded_later_is_not_initialised() -> None:
    """It is zero until then; a module that has something else too is initialised as a whole."""
    with torch.device("meta"):
        model = nn.ModuleDict({"bare": Bare(), "linear": nn.Linear(2, 2), "part": nn.Linear(2, 2)})
    names = [name for name, _ in model.named_parameters() if name != "part.bias"]
    initialize_weights(model, device=CPU, seed=0, loaded=[*names, "bare.count"])
    state = model.state_dict()

    assert not any(state[name].any() for name in state if not name.startswith("part"))
    assert state["part.bias"].any()


def test_a_function_initialises_modules_without_reset_parameters() -> None:
    """It gets the name of the module, and the module with its own tensors in full."""
    with torch.device("meta"):
        model = nn.Sequential(nn.Linear(2, 2), Bare())
    seen: list[str] = []

    def initialize(name: str, module: nn.Module) -> bool:
        seen.append(name)
        for tensor in [*module.parameters(recurse=False), *module.buffers(recurse=False)]:
            nn.init.constant_(tensor, 3)
        return True

    initialize_weights(model, device=CPU, seed=0, initialize=initialize)

    assert seen == ["0", "1", "1.inner"]
    assert all((tensor == 3).all() for tensor in model.state_dict().values())
