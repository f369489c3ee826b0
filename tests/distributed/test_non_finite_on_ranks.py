"""If the gradients of one rank are not finite, all ranks skip the step or stop together, on every mesh."""

import re

import pytest
import torch
from ranks import run_on_ranks
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Shard, distribute_tensor

from d9d.core.dist_context import DeviceMeshParameters, DistributedContext
from d9d.core.settings import ConfigurationError
from d9d.core.stepper import Stepper
from d9d.loop.component.gradients import GradientNorm, NonFiniteGradients, NonFiniteGradientsError, clip_gradients
from d9d.loop.config import TrainingConfig

SHAPES = [(5, 3), (4, 3), (7,)]
NUM_STEPS = 9
MESH = DeviceMeshParameters(data_parallel_shard=2, expert_parallel=2)


def whole(index: int, step: int) -> torch.Tensor:
    """Draw the full gradient of a parameter in a step, the same on every rank."""
    return torch.randn(SHAPES[index], generator=torch.Generator().manual_seed(10 * step + index))


def place(context: DistributedContext) -> list[nn.Parameter]:
    """Create one sharded parameter on each of two meshes, and a plain one."""
    return [
        nn.Parameter(
            distribute_tensor(torch.ones(SHAPES[0]), context.mesh_for("dense")["data_parallel_shard"], [Shard(0)])
        ),
        nn.Parameter(
            distribute_tensor(torch.ones(SHAPES[1]), context.mesh_for("expert")["expert_parallel"], [Shard(1)])
        ),
        nn.Parameter(torch.ones(SHAPES[2])),
    ]


def train(
    policy: str, bad_steps: list[int], bad_rank: int, bad_parameter: int
) -> tuple[list[torch.Tensor], list[float], int, str]:
    """Train with a gradient that is NaN on only one rank; return weights, step counters, last step and error."""
    context = DistributedContext.start("cpu", MESH)
    parameters = place(context)
    optimizer = torch.optim.AdamW([{"params": parameters[:2]}, {"params": parameters[2:]}], lr=0.01, fused=True)
    stepper = Stepper(NUM_STEPS)
    config = TrainingConfig.model_validate(
        {"total_steps": NUM_STEPS, "global_batch_size": 2, "non_finite_gradients": policy}
    )
    guard = NonFiniteGradients(config, optimizer, stepper)
    gradient_norm = GradientNorm(parameters, context)
    message = ""
    while not stepper.is_finished:
        for index, parameter in enumerate(parameters):
            gradient = whole(index, stepper.current_step)
            parameter.grad = (
                distribute_tensor(gradient, parameter.device_mesh, parameter.placements)
                if isinstance(parameter, DTensor)
                else gradient
            )
        if stepper.current_step in bad_steps and context.rank == bad_rank:
            bad = parameters[bad_parameter].grad
            assert bad is not None
            with torch.no_grad():
                (bad.to_local() if isinstance(bad, DTensor) else bad).view(-1)[0] = float("nan")
        try:
            norm = gradient_norm.measure()
            clip_gradients(parameters, norm, 1.0)
            guard.check_finite(norm)
        except NonFiniteGradientsError as error:
            message = str(error)
            break
        optimizer.step()
        stepper.advance()
    weights = [each.full_tensor() if isinstance(each, DTensor) else each.data for each in parameters]
    counters = [optimizer.state[parameter]["step"].item() for parameter in parameters]
    return [weight.detach() for weight in weights], counters, stepper.current_step, message


def reference(steps: list[int]) -> list[torch.Tensor]:
    """Train all parameters in one process, and only in these steps."""
    parameters = [nn.Parameter(torch.ones(shape)) for shape in SHAPES]
    optimizer = torch.optim.AdamW(parameters, lr=0.01, fused=True)
    for step in steps:
        for index, parameter in enumerate(parameters):
            parameter.grad = whole(index, step)
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
    return [parameter.detach() for parameter in parameters]


@pytest.mark.parametrize(("bad_rank", "bad_parameter"), [(1, 0), (0, 1), (0, 2), (1, 2)])
def test_all_ranks_skip_a_step_with_nan_on_one_rank(bad_rank: int, bad_parameter: int) -> None:
    """Weights and step counters equal those of one process that trained without these steps."""
    results = run_on_ranks(2, train, "skip", [0, 4, 5], bad_rank, bad_parameter)

    expected = reference([1, 2, 3, 6, 7, 8])
    for weights, counters, last_step, _ in results:
        torch.testing.assert_close(weights, expected)
        assert counters == [6.0] * 3
        assert last_step == NUM_STEPS


def test_all_ranks_stop_at_the_same_step() -> None:
    """All ranks raise the same message at the same step, with the weights from before the bad step."""
    (weights, counters, last_step, message), other = run_on_ranks(2, train, "stop", [2], 1, 0)

    torch.testing.assert_close(weights, reference([0, 1]))
    torch.testing.assert_close(other[0], weights, rtol=0, atol=0)
    assert other[1:] == (counters, last_step, message)
    assert (counters, last_step) == ([2.0] * 3, 6)
    assert re.match("the gradient norm is nan in step 3, on all processes", message)


def skipping(optimizer: torch.optim.Optimizer) -> NonFiniteGradients:
    config = TrainingConfig(total_steps=NUM_STEPS, global_batch_size=2, non_finite_gradients="skip")
    return NonFiniteGradients(config, optimizer, Stepper(NUM_STEPS))


def train_model(num_parts: int) -> dict[str, torch.Tensor]:
    """Train a model on this rank's part of each batch, two of which contain a NaN; return the full weights."""
    context = DistributedContext.start("cpu", DeviceMeshParameters(data_parallel_shard=num_parts))
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 1))
    if num_parts > 1:
        mesh = context.mesh_for("dense")["data_parallel_shard"]
        fully_shard(model[0], mesh=mesh)
        fully_shard(model, mesh=mesh)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.05, fused=True)
    guard, gradient_norm = skipping(optimizer), GradientNorm(list(model.parameters()), context)
    for step in range(6):
        batch = torch.randn(4, 3, generator=torch.Generator().manual_seed(step))
        if step in (0, 3):
            batch[-1, 0] = float("nan")
        model(batch.chunk(num_parts)[context.rank]).square().mean().backward()
        norm = gradient_norm.measure()
        clip_gradients(model.parameters(), norm, 0.1)
        guard.check_finite(norm)
        optimizer.step()
        optimizer.zero_grad()
    assert guard.num_skipped is not None
    weights = {**model.state_dict(), "num_skipped": guard.num_skipped}
    return {name: value.full_tensor() if isinstance(value, DTensor) else value for name, value in weights.items()}


def test_a_sharded_model_that_skips_steps_trains_as_in_one_process() -> None:
    """FSDP with clipping skips the steps in which one rank has a NaN, and ends with the weights of one process."""
    expected = train_model(1)

    for weights in run_on_ranks(2, train_model, 2):
        torch.testing.assert_close(weights, expected)
    assert expected["num_skipped"].item() == 2


def refusals() -> list[str]:
    """Return the errors for optimizers with sharded parameters."""
    context = DistributedContext.start("cpu", MESH)
    sharded, other, plain = place(context)
    config = TrainingConfig(total_steps=1, global_batch_size=2, non_finite_gradients="skip")
    messages = []
    for optimizer in (
        torch.optim.SGD([sharded], fused=True),
        torch.optim.Adagrad([{"params": [plain]}, {"params": [sharded]}], fused=True),
        torch.optim.AdamW([{"params": [sharded]}, {"params": [plain, other]}], fused=True),
    ):
        with pytest.raises(ConfigurationError) as raised:
            NonFiniteGradients(config, optimizer, Stepper(1))
        messages.append(str(raised.value))
    return messages


def test_optimizers_that_cannot_skip_with_sharded_parameters_are_refused() -> None:
    """Fused optimizers that do not accept DTensors are refused on every rank, with the remedy."""
    first, second = run_on_ranks(2, refusals)

    assert first == second
    needs = "non_finite_gradients='skip' needs fused=True, with which"
    remedy = "use torch.optim.AdamW(…, fused=True), or set non_finite_gradients='allow'"
    of_groups = "and plain ones in one group, as in group 1: put them into two groups"
    assert first == [
        f"{needs} SGD does not support sharded parameters (DTensor): {remedy}",
        f"{needs} Adagrad does not support sharded parameters (DTensor): {remedy}",
        f"{needs} AdamW does not support sharded parameters (DTensor) {of_groups}",
    ]
