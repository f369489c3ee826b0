"""`OptimizerBuilder` builds any optimizer of torch, with groups of parameters, fused if possible."""

import copy
import logging
import re
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from d9d.core.dist_context import DeviceMeshParameters, DistributedContext
from d9d.loop.component import OptimizerBuilder, ParameterGroup
from d9d.loop.config import ConfigurationError
from d9d.loop.control import InitializeOptimizerContext

from .toy_job import configure_training, cpu_context, training_config

FUSED_CLASSES = [torch.optim.Adam, torch.optim.AdamW, torch.optim.SGD, torch.optim.Adagrad]
UNFUSED_CLASSES = [torch.optim.RMSprop, torch.optim.NAdam, torch.optim.Adafactor, torch.optim.Muon]


def is_vector(name: str, parameter: nn.Parameter) -> bool:
    return parameter.ndim <= 1


def is_in_first_layer(name: str, parameter: nn.Parameter) -> bool:
    return name.startswith("0.")


def is_anything(name: str, parameter: nn.Parameter) -> bool:
    return True


def is_nowhere(name: str, parameter: nn.Parameter) -> bool:
    return False


def two_layers() -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))


def context(*modules: nn.Module, num_in_pipeline: int = 1) -> InitializeOptimizerContext:
    """Return the context of one process of a pipeline."""
    dist_context = DistributedContext(
        device=torch.device("cpu"),
        world_size=num_in_pipeline,
        mesh_parameters=DeviceMeshParameters(pipeline_parallel=num_in_pipeline),
    )
    return InitializeOptimizerContext(dist_context=dist_context, modules=list(modules))


def build(builder: OptimizerBuilder, *modules: nn.Module, num_in_pipeline: int = 1) -> torch.optim.Optimizer:
    """Build an optimizer over the stages of one process."""
    optimizer = builder(context(*modules, num_in_pipeline=num_in_pipeline))
    assert isinstance(optimizer, torch.optim.Optimizer)
    return optimizer


def names_by_group(optimizer: torch.optim.Optimizer, model: nn.Module) -> list[list[str]]:
    """Return the names of the parameters of each group."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return [[names[id(parameter)] for parameter in group["params"]] for group in optimizer.param_groups]


def step_once(optimizer: torch.optim.Optimizer) -> None:
    """Give each parameter a gradient of ones, and step."""
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            parameter.grad = torch.ones_like(parameter)
    optimizer.step()


def test_without_a_class_it_builds_adamw() -> None:
    """With the options that it is given."""
    optimizer = build(OptimizerBuilder(lr=0.5), two_layers())

    assert type(optimizer) is torch.optim.AdamW
    assert optimizer.param_groups[0]["lr"] == 0.5


def test_parameters_in_no_group_come_first_with_the_options_of_the_optimizer() -> None:
    """A group has its own options, and those of the optimizer for the rest."""
    model = two_layers()
    builder = OptimizerBuilder(
        torch.optim.AdamW, lr=0.5, weight_decay=0.1, groups=[ParameterGroup(is_vector, weight_decay=0.0)]
    )

    optimizer = build(builder, model)

    assert names_by_group(optimizer, model) == [["0.weight", "1.weight"], ["0.bias", "1.bias"]]
    assert [(group["lr"], group["weight_decay"]) for group in optimizer.param_groups] == [(0.5, 0.1), (0.5, 0.0)]


def test_a_parameter_belongs_to_the_first_group_that_matches() -> None:
    """Later groups get the rest."""
    model = two_layers()
    groups = [ParameterGroup(is_in_first_layer, lr=0.1), ParameterGroup(is_vector, lr=0.2)]

    optimizer = build(OptimizerBuilder(torch.optim.SGD, groups=groups), model)

    assert names_by_group(optimizer, model) == [["1.weight"], ["0.weight", "0.bias"], ["1.bias"]]


def test_if_groups_match_everything_there_is_no_other_group() -> None:
    """No group is empty."""
    model = two_layers()

    optimizer = build(OptimizerBuilder(torch.optim.SGD, groups=[ParameterGroup(is_anything, lr=0.1)]), model)

    assert [len(group["params"]) for group in optimizer.param_groups] == [4]


class HasLength:
    """Matches parameters of some lengths."""

    def __init__(self, lengths: set[int]) -> None:
        self._lengths = lengths

    def __call__(self, name: str, parameter: nn.Parameter) -> bool:
        return len(parameter) in self._lengths


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 4), st.booleans()), min_size=1), st.lists(st.sets(st.integers(0, 4))))
def test_each_trainable_parameter_is_in_one_group(kinds: list[tuple[int, bool]], wanted: list[set[int]]) -> None:
    """For any predicates."""
    model = nn.ParameterList([nn.Parameter(torch.zeros(kind), requires_grad=is_free) for kind, is_free in kinds])
    groups = [ParameterGroup(HasLength(own), lr=0.5) for own in wanted]

    optimizer = build(OptimizerBuilder(torch.optim.SGD, fused=False, groups=groups), model, num_in_pipeline=2)

    placed = [name for names in names_by_group(optimizer, model) for name in names]
    assert sorted(placed) == sorted(name for name, parameter in model.named_parameters() if parameter.requires_grad)
    taken = set().union(*wanted)
    for group in optimizer.param_groups:
        assert all((len(parameter) in taken) is (group["lr"] == 0.5) for parameter in group["params"])


def test_frozen_parameters_are_left_out() -> None:
    """Predicates are not called with them."""
    model = two_layers()
    model[0].requires_grad_(requires_grad=False)
    seen: list[str] = []

    def note(name: str, parameter: nn.Parameter) -> bool:
        seen.append(name)
        return False

    optimizer = build(OptimizerBuilder(torch.optim.SGD, groups=[ParameterGroup(note)]), model, num_in_pipeline=2)

    assert names_by_group(optimizer, model) == [["1.weight", "1.bias"]]
    assert seen == ["1.weight", "1.bias"]


def test_a_group_that_matches_nothing_is_refused() -> None:
    """A typo in a predicate could otherwise apply weight decay to the wrong parameters."""
    builder = OptimizerBuilder(
        torch.optim.AdamW, groups=[ParameterGroup(is_vector), ParameterGroup(is_nowhere, weight_decay=0.0)]
    )

    message = re.escape("groups[1], ParameterGroup(is_nowhere, weight_decay=0.0), matches no parameter that requires")
    with pytest.raises(ConfigurationError, match=f"^{message}"):
        configure_training(training_config(), optimizer_provider=builder)


def test_a_group_may_be_empty_in_a_pipeline(caplog: pytest.LogCaptureFixture) -> None:
    """Another process may hold its parameters; the log says so."""
    builder = OptimizerBuilder(torch.optim.AdamW, groups=[ParameterGroup(is_nowhere, lr=0.1)])

    with caplog.at_level(logging.INFO, logger="d9d"):
        optimizer = build(builder, two_layers(), num_in_pipeline=2)

    assert "groups[0], ParameterGroup(is_nowhere, lr=0.1), matches no parameter of this process" in caplog.text
    assert [group["lr"] for group in optimizer.param_groups] == [0.001]


def test_a_frozen_model_is_refused() -> None:
    """There is nothing to train."""
    with pytest.raises(ConfigurationError, match="no parameter that requires gradients, so there is nothing to train"):
        build(OptimizerBuilder(torch.optim.AdamW), two_layers().requires_grad_(requires_grad=False))


def test_a_frozen_stage_has_an_optimizer_without_parameters() -> None:
    """So every process of a pipeline has an optimizer."""
    frozen = two_layers().requires_grad_(requires_grad=False)

    optimizer = build(OptimizerBuilder(torch.optim.AdamW), frozen, num_in_pipeline=2)
    optimizer.step()

    assert [group["params"] for group in optimizer.param_groups] == [[]]


def test_an_unknown_argument_is_refused_by_the_constructor() -> None:
    """The error lists the arguments of the optimizer."""
    with pytest.raises(
        ConfigurationError, match=r"^SGD: got an unexpected keyword .*'decay'; its arguments are lr, momen"
    ):
        OptimizerBuilder(torch.optim.SGD, lr=0.1, decay=0.1)


@pytest.mark.parametrize(
    ("option", "remedy"),
    [
        ("weight_decy", "did you mean 'weight_decay'?"),
        ("zeal", "its options are dampening, differentiable, foreach, fused"),
    ],
)
def test_an_unknown_option_of_a_group_is_refused(option: str, remedy: str) -> None:
    """Torch would silently ignore it."""
    builder = OptimizerBuilder(torch.optim.SGD, groups=[ParameterGroup(is_vector, **{option: 0.0})])

    with pytest.raises(ConfigurationError) as caught:
        build(builder, two_layers())
    assert str(caught.value).startswith(
        f"groups[0], ParameterGroup(is_vector, {option}=0.0), has the option {option!r}, but SGD has no such option: "
        f"{remedy}"
    )


def test_an_option_out_of_range_raises_the_error_of_the_optimizer() -> None:
    """It is not mistaken for a missing fused kernel."""
    with pytest.raises(ValueError, match="Invalid learning rate: -1"):
        build(OptimizerBuilder(torch.optim.AdamW, lr=-1.0), two_layers())


@pytest.mark.parametrize("optimizer_class", FUSED_CLASSES)
def test_an_optimizer_is_fused_if_it_can_be(optimizer_class: type[torch.optim.Optimizer]) -> None:
    """In each of its groups."""
    builder = OptimizerBuilder(optimizer_class, groups=[ParameterGroup(is_vector, weight_decay=0.0)])

    optimizer = build(builder, two_layers())

    assert [group["fused"] for group in optimizer.param_groups] == [True, True]
    step_once(optimizer)


@pytest.mark.parametrize("optimizer_class", UNFUSED_CLASSES)
def test_an_optimizer_without_a_fused_kernel_is_built_without_it(optimizer_class: type[torch.optim.Optimizer]) -> None:
    """It has no argument `fused`."""
    optimizer = build(OptimizerBuilder(optimizer_class), nn.Linear(3, 2, bias=False))

    assert "fused" not in optimizer.defaults
    step_once(optimizer)


@pytest.mark.parametrize("options", [{"fused": False}, {"foreach": True}, {"foreach": False}, {"fused": None}])
def test_the_implementation_chosen_by_the_user_is_kept(options: dict[str, Any]) -> None:
    """Neither `fused` nor `foreach` is changed."""
    optimizer = build(OptimizerBuilder(torch.optim.AdamW, **options), two_layers())

    assert {name: optimizer.defaults[name] for name in ("fused", "foreach")} == {
        "fused": None,
        "foreach": None,
        **options,
    }


@pytest.mark.parametrize("fused", [None, False, True])
def test_loading_a_state_does_not_change_an_implementation_chosen_by_the_builder(fused: bool | None) -> None:  # noqa: FBT001 -- a parameter
    """One that the user chose follows the state, as in torch."""
    source = build(OptimizerBuilder(torch.optim.AdamW, fused=fused), two_layers())
    step_once(source)
    chosen = build(OptimizerBuilder(torch.optim.AdamW), two_layers())
    given = build(OptimizerBuilder(torch.optim.AdamW, fused=False), two_layers())

    for optimizer in (chosen, given):
        optimizer.load_state_dict(copy.deepcopy(source.state_dict()))
        step_once(optimizer)

    assert [optimizer.param_groups[0]["fused"] for optimizer in (chosen, given)] == [True, fused]
    assert all(state["step"] == 2 for state in chosen.state.values())


def test_the_implementation_of_a_group_is_kept() -> None:
    """Other groups then have torch's default."""
    builder = OptimizerBuilder(torch.optim.AdamW, groups=[ParameterGroup(is_vector, foreach=True)])

    optimizer = build(builder, two_layers())

    assert [(group["fused"], group["foreach"]) for group in optimizer.param_groups] == [(None, None), (None, True)]


class Scale(nn.Module):
    """Holds one parameter."""

    def __init__(self, parameter: torch.Tensor) -> None:
        super().__init__()
        self.scale = nn.Parameter(parameter)


class Tagged(torch.Tensor):
    """A subclass that the builder does not know."""


UNFUSABLE = [
    pytest.param(Scale(torch.zeros(2, dtype=torch.complex64)), id="complex"),
    pytest.param(Scale(torch.zeros(2, device="meta")), id="meta"),
    pytest.param(Scale(torch.zeros(2).as_subclass(Tagged)), id="subclass"),
]


@pytest.mark.parametrize("odd", UNFUSABLE)
def test_one_parameter_that_cannot_be_fused_is_enough(odd: nn.Module) -> None:
    """The optimizer then has torch's default."""
    optimizer = build(OptimizerBuilder(torch.optim.AdamW), nn.ModuleList([nn.Linear(3, 2), odd]))

    assert optimizer.defaults["fused"] is None
    step_once(optimizer)


def test_the_reason_why_an_optimizer_is_not_fused_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """It is torch's message, at level DEBUG."""
    with caplog.at_level(logging.DEBUG, logger="d9d"):
        build(OptimizerBuilder(torch.optim.AdamW), Scale(torch.zeros(2, device="meta")))

    assert "AdamW runs without fused=True: `fused=True` requires all the params to be" in caplog.text


def test_a_differentiable_optimizer_is_not_fused() -> None:
    """The two options exclude each other."""
    optimizer = build(OptimizerBuilder(torch.optim.Adam, differentiable=True), two_layers())

    assert optimizer.defaults["fused"] is None


@pytest.mark.parametrize("embedding", [nn.Embedding(5, 3, sparse=True), nn.EmbeddingBag(5, 3, sparse=True)])
def test_sparse_gradients_work_without_a_fused_kernel(embedding: nn.Embedding | nn.EmbeddingBag) -> None:
    """Fused kernels do not support them."""
    optimizer = build(OptimizerBuilder(torch.optim.SGD, lr=0.1), nn.ModuleList([embedding, nn.Linear(3, 2)]))

    before = embedding.weight.detach().clone()
    torch.autograd.backward(embedding(torch.tensor([[1]])).sum())
    optimizer.step()

    assert (embedding.weight != before).any(dim=1).tolist() == [False, True, False, False, False]


def test_parameters_of_several_dtypes_are_fused() -> None:
    """Torch groups them by dtype itself."""
    model = nn.ModuleList([nn.Linear(3, 2), nn.Linear(3, 2, dtype=torch.bfloat16), nn.Linear(3, 2).double()])

    optimizer = build(OptimizerBuilder(torch.optim.AdamW), model)

    assert optimizer.defaults["fused"] is True
    step_once(optimizer)


def test_the_trial_step_has_no_side_effects() -> None:
    """The optimizer has no state, and no random number is drawn."""
    model = two_layers()
    state = torch.get_rng_state()

    optimizer = build(OptimizerBuilder(torch.optim.AdamW), model)

    assert not optimizer.state
    assert torch.equal(torch.get_rng_state(), state)


def test_the_context_iterates_over_the_parameters_of_all_stages() -> None:
    """In pipeline order, each parameter once and under its first name."""
    first, second = nn.ModuleDict({"0": nn.Linear(3, 3)}), nn.ModuleDict({"2": nn.Linear(3, 3, bias=False)})
    second["2"].weight = first["0"].weight
    second["3"] = nn.Linear(3, 3)
    ctx = context(first, second)

    assert [name for name, _ in ctx.named_parameters()] == ["0.weight", "0.bias", "3.weight", "3.bias"]
    assert [id(parameter) for parameter in ctx.parameters()] == [
        id(parameter) for _, parameter in ctx.named_parameters()
    ]


def test_stages_whose_names_clash_are_refused() -> None:
    """Checkpoints identify parameters by name."""
    with pytest.raises(
        ValueError, match=r"^modules\[1\] and an earlier stage .* parameter named '0\.weight': give each"
    ):
        list(context(two_layers(), two_layers()).parameters())


def test_the_context_without_a_pipeline_holds_the_whole_model() -> None:
    """One of several stages does not."""
    assert InitializeOptimizerContext(dist_context=cpu_context(), modules=[]).holds_whole_model
    assert not context(num_in_pipeline=2).holds_whole_model
