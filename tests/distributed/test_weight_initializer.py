"""The same seed gives the same full weights on any number of processes, however the model is sharded."""

import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from ranks import run_on_ranks
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from d9d.core.dist_context import DeviceMeshParameters, DistributedContext
from d9d.core.parallel import shard_data_parallel, shard_experts
from d9d.loop.component.weight_init import initialize_weights

SEED = 3
# Divided by two and by four with a remainder, so that some processes have less than others, or nothing.
NUM_TOKENS = 11
WIDTH = 6
HIDDEN = 5
NUM_EXPERTS = 4


class Experts(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stacked = nn.Parameter(torch.empty(NUM_EXPERTS, WIDTH, WIDTH, dtype=torch.bfloat16))

    def reset_parameters(self) -> None:
        nn.init.normal_(self.stacked)


class Rotary(nn.Module):
    """Has a table that is not in the state dict."""

    angles: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("angles", torch.empty(NUM_TOKENS, WIDTH), persistent=False)

    def reset_parameters(self) -> None:
        # Another tensor in the place of the buffer, as many models do it.
        self.angles = torch.outer(torch.arange(NUM_TOKENS), 1 / (1 + torch.arange(WIDTH)))


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH)
        self.rise = nn.Linear(WIDTH, HIDDEN)
        self.fall = nn.Linear(HIDDEN, WIDTH)
        self.experts = Experts()


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(NUM_TOKENS, WIDTH)
        self.rotary = Rotary()
        self.blocks = nn.ModuleList([Block(), Block()])
        self.head = nn.Linear(WIDTH, NUM_TOKENS)
        self.head.weight = self.embedding.weight
        self.get_parameter("blocks.0.norm.weight").requires_grad = False


def build() -> Model:
    with torch.device("meta"):
        return Model()


def divide_matrices(model: nn.Module, context: DistributedContext) -> None:
    mesh = context.mesh_for("dense")["tensor_parallel"]
    plan = {"blocks.*.rise": ColwiseParallel(), "blocks.*.fall": RowwiseParallel()}
    parallelize_module(model, mesh, plan)


def parallelize(model: nn.Module, context: DistributedContext) -> None:
    if context.mesh_parameters.tensor_parallel > 1:
        divide_matrices(model, context)
    for module in list(model.modules()):
        if isinstance(module, Experts):
            shard_experts(module, context)
    shard_data_parallel(model, context, blocks=Block)


def full(tensor: torch.Tensor) -> torch.Tensor:
    return (tensor.full_tensor() if isinstance(tensor, DTensor) else tensor).detach()


def tensors_of(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: full(tensor) for name, tensor in [*model.named_parameters(), *model.named_buffers()]}


def weights_on(parameters: DeviceMeshParameters) -> dict[str, torch.Tensor]:
    context = DistributedContext.start("cpu", parameters)
    model = build()
    parallelize(model, context)
    # What each process has drawn before is its own affair.
    torch.manual_seed(context.rank)
    initialize_weights(model, device=context.device, seed=SEED)
    return tensors_of(model)


@functools.cache
def expected() -> dict[str, torch.Tensor]:
    model = build()
    initialize_weights(model, device=torch.device("cpu"), seed=SEED)
    return tensors_of(model)


def assert_same(weights: dict[str, torch.Tensor]) -> None:
    assert list(weights) == list(expected())
    for name, values in expected().items():
        assert torch.equal(weights[name], values), name


LAYOUTS = [
    pytest.param({"data_parallel_shard": 2}, id="fsdp-2"),
    pytest.param({"data_parallel_replicate": 2}, id="replicate-2"),
    pytest.param({"tensor_parallel": 2}, id="tensor-2"),
    pytest.param({"data_parallel_shard": 2, "expert_parallel": 2}, id="experts-2"),
    *(
        pytest.param(layout, id=name, marks=pytest.mark.slow)
        for name, layout in {
            "fsdp-4": {"data_parallel_shard": 4},
            "replicate-4": {"data_parallel_replicate": 4},
            "tensor-4": {"tensor_parallel": 4},
            "hsdp": {"data_parallel_replicate": 2, "data_parallel_shard": 2},
            "fsdp-tensor": {"data_parallel_shard": 2, "tensor_parallel": 2},
            "replicate-tensor": {"data_parallel_replicate": 2, "tensor_parallel": 2},
            "context": {"data_parallel_shard": 2, "context_parallel": 2},
            "experts-2-of-4": {"data_parallel_shard": 4, "expert_parallel": 2},
            "experts-4": {"data_parallel_shard": 2, "data_parallel_replicate": 2, "expert_parallel": 4},
        }.items()
    ),
]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_weights_equal_those_of_one_process(layout: dict[str, int]) -> None:
    """Bit for bit, including uneven shards, and shared, frozen and computed weights."""
    parameters = DeviceMeshParameters(**layout)

    for weights in run_on_ranks(parameters.world_size, weights_on, parameters):
        assert_same(weights)


def parts_of(initialize: Callable[[nn.Module], None]) -> torch.Tensor:
    """Return the shard of a matrix on this process."""
    context = DistributedContext.start("cpu", DeviceMeshParameters(data_parallel_shard=2))
    with torch.device("meta"):
        model = nn.Linear(4, 4)
    fully_shard(model, mesh=context.mesh_for("dense")["data_parallel_shard"])
    initialize(model)
    weight = model.weight.detach()
    assert isinstance(weight, DTensor)
    return weight.to_local()


def naively(model: nn.Linear) -> None:
    model.to_empty(device="cpu")
    torch.manual_seed(SEED)
    model.reset_parameters()


def with_care(model: nn.Linear) -> None:
    initialize_weights(model, device=torch.device("cpu"), seed=SEED)


def test_shards_differ_where_torch_would_make_them_equal() -> None:
    """`reset_parameters` on the shards draws the same numbers on each process."""
    first, second = run_on_ranks(2, parts_of, naively)
    assert torch.equal(first, second)

    first, second = run_on_ranks(2, parts_of, with_care)
    assert not torch.equal(first, second)


class MemoryMeter(TorchDispatchMode):  # type: ignore[no-untyped-call] # torch has no types here, nor below
    """Counts the bytes of the tensors that were made under it and are alive, now and at the peak."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._storages: dict[StorageWeakRef, int] = {}
        self.peak_bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor) and not leaf.is_meta:
                storage = (leaf.to_local() if isinstance(leaf, DTensor) else leaf).untyped_storage()
                self._storages[StorageWeakRef(storage)] = storage.nbytes()  # type: ignore[no-untyped-call]
        for reference in [*self._storages]:
            if reference.expired():  # type: ignore[no-untyped-call]
                del self._storages[reference]
        self.peak_bytes = max(self.peak_bytes, sum(self._storages.values()))
        return result


def peak_and_parts(num_layers: int) -> tuple[int, int]:
    """Return the peak number of bytes while a model was initialised, and the bytes of this process's shard."""
    context = DistributedContext.start("cpu", DeviceMeshParameters(data_parallel_shard=2))
    with torch.device("meta"):
        model = nn.Sequential(*(nn.Linear(256, 256) for _ in range(num_layers)))
    shard_data_parallel(model, context, blocks=nn.Linear)
    with MemoryMeter() as meter:
        initialize_weights(model, device=context.device, seed=SEED)
    local = [parameter.to_local() for parameter in model.parameters() if isinstance(parameter, DTensor)]
    return meter.peak_bytes, sum(part.numel() * part.itemsize for part in local)


def test_no_process_holds_more_than_its_shard_and_one_module() -> None:
    """Of sixteen layers on two processes: half of each, and one full layer while it is initialised."""
    num_layers = 16
    layer_bytes = (256 * 256 + 256) * 4

    for peak, part in run_on_ranks(2, peak_and_parts, num_layers):
        assert part == num_layers * layer_bytes / 2
        # While a layer is taken apart, this process has its tensors and its half of them; and generators have states.
        assert part + layer_bytes < peak < part + 1.6 * layer_bytes


def objects_kept() -> bool:
    """Train a step, and return whether all parameters are the same objects as on the meta device."""
    context = DistributedContext.start("cpu", DeviceMeshParameters(data_parallel_shard=2))
    with torch.device("meta"):
        model = nn.Sequential(nn.Linear(3, 3, bias=False), nn.LayerNorm(3), nn.Linear(3, 3))
        model[2].weight = model[0].weight
    shard_data_parallel(model, context)
    before = [*model.parameters()]
    optimizer = torch.optim.SGD(before, lr=1.0)
    initialize_weights(model, device=context.device, seed=SEED)
    weight = full(model.get_parameter("0.weight"))
    model(torch.ones(2, 3)).square().sum().backward()
    optimizer.step()
    assert all(now is then for now, then in zip(model.parameters(), before, strict=True))
    assert model.get_parameter("0.weight") is model[2].weight
    return not torch.equal(full(model.get_parameter("0.weight")), weight)


def test_parameters_remain_the_same_objects() -> None:
    """So FSDP and optimizers may refer to them before, and shared parameters remain shared."""
    assert run_on_ranks(2, objects_kept) == [True, True]


def outputs_of_given_weights() -> torch.Tensor:
    context = DistributedContext.start("cpu", DeviceMeshParameters(data_parallel_shard=2))
    torch.manual_seed(SEED)
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    shard_data_parallel(model, context)
    initialize_weights(model, device=context.device, seed=SEED)
    outputs: torch.Tensor = model(torch.ones(1, 3)).detach()
    return outputs


def test_weights_made_by_the_provider_are_kept() -> None:
    """Each process keeps its shard of them."""
    torch.manual_seed(SEED)
    expected_outputs = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))(torch.ones(1, 3)).detach()

    for outputs in run_on_ranks(2, outputs_of_given_weights):
        torch.testing.assert_close(outputs, expected_outputs)
