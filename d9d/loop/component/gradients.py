"""The gradients of a step: accumulated, reduced over processes, scaled, measured and clipped."""

import collections
import dataclasses
import functools
from collections.abc import Collection, Iterable, Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import distributed, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor, Replicate
from torch.distributed.tensor.placement_types import Placement
from torch.nn.parallel import DistributedDataParallel

from d9d.core.device import copy_to_host, has_streams
from d9d.core.dist_context import DistributedContext
from d9d.core.parallel import is_replicated_by_ddp
from d9d.core.protocol import OptimizerProtocol
from d9d.core.stepper import Stepper
from d9d.loop.component.data import list_tensors
from d9d.loop.config import ConfigurationError, TrainingConfig
from d9d.loop.control import ComputeLossResult

_HALF_PRECISION = frozenset({torch.float16, torch.bfloat16})
# The epsilon of `torch.nn.utils.clip_grad_norm_`.
_EPSILON = 1e-6
# How many steps the host stays ahead of a norm that it reads: the device has work queued and never idles meanwhile.
_LAG_STEPS = 4


class NonFiniteGradientsError(RuntimeError):
    """The gradients of a step are infinite or NaN."""


class Gradients:
    """The gradients of a step, from the first backward pass to the optimizer.

    With losses `l_i` and weights `w_i`, over all micro-batches of all processes, the loss of a step is
    `sum(w_i * l_i) / sum(w_i)`. A step calls `begin_step`, `scale_loss` once per micro-batch, `reduce` after the last
    backward pass, `clip` before the optimizer's step, and `zero` after it. Everything stays on the device.

    Args:
        modules: The stages of the model that this process holds.
        optimizer: The optimizer that takes the gradients.
        config: The clipping norm, the dtype of accumulation, and what to do with gradients that are not finite.
        stepper: Counts the steps.
        dist_context: The processes of the job.
        copies: Parameters of tied weights that other parameters stand for in the norm.
        always_measure: Whether to measure the norm also in steps in which nothing here needs it.

    Raises:
        ConfigurationError: If the model cannot accumulate in `gradient_dtype`, or the optimizer cannot skip a step on
            the device as `non_finite_gradients` needs.
    """

    def __init__(
        self,
        modules: list[nn.Module],
        *,
        optimizer: OptimizerProtocol,
        config: TrainingConfig,
        stepper: Stepper,
        dist_context: DistributedContext,
        copies: Collection[nn.Parameter] = (),
        always_measure: bool = False,
    ) -> None:
        # All parameters: those that are frozen now may be unfrozen later.
        self._parameters = [parameter for module in modules for parameter in module.parameters()]
        self._optimizer = optimizer
        self._max_norm = config.max_gradient_norm
        self._measures_every_step = always_measure or is_norm_needed(config)
        self._accumulator = GradientAccumulator(dist_context)
        self._norm = GradientNorm(self._parameters, dist_context, copies)
        self._dtype = GradientDtype(modules, config.gradient_dtype)
        is_checked = config.non_finite_gradients != "allow"
        self._buffers = BufferSnapshot(modules if is_checked else [])
        self._non_finite = NonFiniteGradients(config, optimizer, stepper, self._buffers)
        self._reduced: _Reduced | None = None
        self._skip_condition: torch.Tensor | None = None

    @property
    def num_skipped_steps(self) -> torch.Tensor | None:
        """How many steps were skipped since this process started: a scalar on the device; `None` before the first."""
        return self._non_finite.num_skipped

    @property
    def norm(self) -> torch.Tensor:
        """The norm of the gradients of this step before clipping, between `reduce` and `clip`.

        Raises:
            RuntimeError: If it is not measured in this step.
        """
        if self._reduced is None or self._reduced.norm is None:
            raise RuntimeError("the gradient norm is not measured in this step: ask for it with always_measure=True")
        return self._reduced.norm

    def begin_step(self) -> None:
        """Prepare for the first forward pass of a step."""
        self._dtype.upcast()
        if self._buffers:
            self._buffers.take()

    def scale_loss(self, result: ComputeLossResult) -> torch.Tensor:
        """Count the loss of one micro-batch.

        Args:
            result: The loss and its weight.

        Returns:
            The loss times its weight, a scalar on the device, to run the backward pass on.

        Raises:
            ValueError: If the loss is not a scalar.
        """
        return self._accumulator.scale_loss(result)

    def reduce(self, *, is_observed: bool, is_reported: bool) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Sum the losses over all processes, scale the gradients, and measure them where that is needed.

        Args:
            is_observed: Whether something reads the gradients before `clip`, the same on all processes. If not, `clip`
                scales them by the weight of the step and by the bound of the norm in one operation.
            is_reported: Whether this step has a report, which shows the norm.

        Returns:
            The loss of the step, and the norm of its gradients before clipping, both over all processes, scalars on
            the device. The norm is `None` where neither clipping, `non_finite_gradients` nor a report needs it.

        Raises:
            RuntimeError: If no micro-batch was counted.
        """
        loss, divisor = self._accumulator.finish()
        if is_observed or self._max_norm is None:
            divide_gradients(self._parameters, divisor)
            divisor = 1.0
        norm: torch.Tensor | None = None
        if self._measures_every_step or is_reported:
            norm = _quotient(self._norm.measure(), divisor)
        self._reduced = _Reduced(norm, divisor)
        return loss, norm

    def skip_update(self, condition: torch.Tensor) -> None:
        """Skip the optimizer's step if a condition is true, without waiting for the device.

        If this is called several times in a step, the step is skipped if any of the conditions is true.

        Args:
            condition: A boolean scalar on the device, the same on all processes.

        Raises:
            ConfigurationError: If the optimizer cannot skip a step on the device.
            RuntimeError: If the gradients of the step are not complete yet, or are clipped already.
            TypeError: If the condition is not a tensor of one boolean.
            ValueError: If it is not on the device.
        """
        if self._reduced is None:
            raise RuntimeError(
                "skip_update was called when no step was waiting for its update: call it within a handler of "
                "train.gradients.ready, with the context of that step"
            )
        _require_support("skip_update", self._optimizer, alternative="do not call skip_update")
        _require_condition(condition, self.norm.device)
        condition = condition.detach().reshape(())
        self._skip_condition = condition if self._skip_condition is None else self._skip_condition | condition

    def clip(self) -> None:
        """Turn the gradients into those that the optimizer takes: clipped, in its dtype.

        Raises:
            NonFiniteGradientsError: With `non_finite_gradients="stop"`, a few steps after the one that was not finite.
            RuntimeError: If `reduce` was not called before.
        """
        reduced, self._reduced = self._reduced, None
        if reduced is None:
            raise RuntimeError("the gradients of this step are not complete: call reduce before clip")
        if self._max_norm is not None and reduced.norm is not None:
            clip_gradients(self._parameters, reduced.norm, self._max_norm, divisor=reduced.divisor)
        self._non_finite.check_finite(reduced.norm, self._skip_condition)
        self._dtype.downcast()

    def require_finite(self) -> None:
        """Raise if `non_finite_gradients="stop"` has skipped a step; every save calls this first.

        Raises:
            NonFiniteGradientsError: On all processes, if so.
        """
        self._non_finite.require_finite()

    def zero(self) -> None:
        """Drop all gradients, also those of parameters that no optimizer holds, and what was counted of a step."""
        self._accumulator.reset()
        if self._skip_condition is not None:
            self._skip_condition = None
            self._non_finite.step_done()
        self._optimizer.zero_grad()
        for parameter in self._parameters:
            parameter.grad = None


def is_norm_needed(config: TrainingConfig) -> bool:
    """Return whether clipping, the check for non-finite gradients or reports need the gradient norm in every step.

    Args:
        config: The settings of the run.
    """
    return (
        config.max_gradient_norm is not None
        or config.non_finite_gradients != "allow"
        or config.reporting.period_steps == 1
    )


class _Reduced(NamedTuple):
    """The norm of the gradients of a step, and the number by which the gradients must still be divided."""

    norm: torch.Tensor | None
    divisor: torch.Tensor | float


def local_gradients(parameters: Iterable[nn.Parameter]) -> list[list[torch.Tensor]]:
    """Return the local tensors of all gradients, for `torch._foreach_…` functions.

    An in-place operation on them changes the gradients. With an operand that is the same on all processes, it is right
    for sharded and replicated tensors on any mesh. The `_foreach` functions accept neither tensors of several meshes
    nor a mix of `DTensor` and plain tensors, and are fast only for tensors of one device and dtype.

    Args:
        parameters: The parameters; those without a gradient are skipped.

    Returns:
        The tensors, in one list per device and dtype.
    """
    groups: collections.defaultdict[tuple[torch.device, torch.dtype], list[torch.Tensor]] = collections.defaultdict(
        list
    )
    gradients = [gradient for parameter in parameters if (gradient := parameter.grad) is not None]
    if any(isinstance(gradient, DTensor) for gradient in gradients):
        with torch.no_grad():
            gradients = [each.to_local() if isinstance(each, DTensor) else each for each in gradients]
    for gradient in gradients:
        groups[gradient.device, gradient.dtype].append(gradient)
    return list(groups.values())


def divide_gradients(parameters: Iterable[nn.Parameter], divisor: torch.Tensor | float) -> None:
    """Divide gradients by a number, without waiting for the device.

    Args:
        parameters: The parameters whose gradients are divided.
        divisor: The number, on the host or as a scalar on the device.
    """
    if not isinstance(divisor, torch.Tensor) and divisor == 1.0:
        return
    with torch.no_grad():
        for group in local_gradients(parameters):
            if isinstance(divisor, torch.Tensor) and group[0].dtype in _HALF_PRECISION:
                _multiply(group, 1.0 / divisor)  # a number of tokens may be larger than the largest number of fp16
            else:
                # Torch's own optimizers and clipping use the same function.
                torch._foreach_div_(group, divisor)


def _multiply(group: list[torch.Tensor], factor: torch.Tensor) -> None:
    """Multiply tensors of one device and dtype by a scalar.

    With a scalar of another dtype, torch would run one kernel for each tensor.
    """
    torch._foreach_mul_(group, factor.to(group[0].device, group[0].dtype))


def _quotient(number: torch.Tensor, divisor: torch.Tensor | float) -> torch.Tensor:
    return number / divisor if isinstance(divisor, torch.Tensor) or divisor != 1.0 else number


def clip_gradients(
    parameters: Iterable[nn.Parameter],
    norm: torch.Tensor,
    max_norm: float,
    *,
    divisor: torch.Tensor | float = 1.0,
) -> None:
    """Scale gradients down if their norm exceeds a bound, without waiting for the device.

    Args:
        parameters: The parameters whose gradients are clipped.
        norm: The L2 norm of the gradients of the job, divided by `divisor`; a scalar on the device.
        max_norm: The largest norm.
        divisor: What the gradients are divided by at the same time.
    """
    with torch.no_grad():
        # The formula of `torch.nn.utils.clip_grads_with_norm_`, which does not accept tensors of several meshes:
        # max_norm / (norm + epsilon), at most 1. Torch computes such a quotient as a product too.
        factor = (norm + _EPSILON).reciprocal_().mul_(max_norm).clamp_(max=1.0)
        factor = _quotient(factor, divisor)
        for group in local_gradients(parameters):
            _multiply(group, factor)


class GradientSynchronizer:
    """Makes FSDP sum gradients instead of averaging them, and all-reduce over replicas only once per step.

    The loop itself divides by the weight of the whole step, because processes may have unequal shares of it.

    Args:
        modules: The stages of this process.
    """

    def __init__(self, modules: Sequence[nn.Module]) -> None:
        sharded = [module for stage in modules for module in stage.modules() if isinstance(module, FSDPModule)]
        for module in sharded:
            module.set_gradient_divide_factor(1.0)
            # Otherwise a divide factor needs a kind of reduction that only some backends support.
            module.set_force_sum_reduction_for_comms(True)
        self._sharded = sharded

    def start_micro_batch(self, *, is_last: bool) -> None:
        """Prepare for the backward pass of a micro-batch.

        Gradients are reduce-scattered over shards after each micro-batch, so a process never holds the gradients of
        other shards. They are all-reduced over replicas after the last micro-batch.

        Args:
            is_last: Whether this is the last micro-batch of the step.
        """
        for module in self._sharded:
            module.set_requires_all_reduce(is_last, recurse=False)


class GradientAccumulator:
    """Turns the gradients of weighted losses into the gradients of their weighted mean over a step.

    With losses `l_i` and weights `w_i`, over all micro-batches of all processes, the step's loss is
    `sum(w_i * l_i) / sum(w_i)`. The denominator is known only after the last micro-batch, so it divides the gradients,
    once, at the end. All values stay on the device.

    Args:
        dist_context: The processes that share the step.
    """

    def __init__(self, dist_context: DistributedContext) -> None:
        self._device = dist_context.device
        self._group = dist_context.mesh_for("loss").get_group("loss") if dist_context.world_size > 1 else None
        self._loss_sum: torch.Tensor | None = None
        self._weight_sum: torch.Tensor | float = 0.0

    def scale_loss(self, result: ComputeLossResult) -> torch.Tensor:
        """Count the loss of one micro-batch.

        Args:
            result: The loss and its weight.

        Returns:
            The loss times its weight, to run the backward pass on.

        Raises:
            ValueError: If the loss is not a scalar.
        """
        loss = result.loss if result.loss_sum is None else result.loss_sum
        if loss.ndim:
            raise ValueError(
                f"compute_loss returned a loss of shape {list(loss.shape)}: return a scalar, such as its mean"
            )
        if loss.dtype in _HALF_PRECISION:
            loss = loss.float()  # a sum over many tokens exceeds the range or the precision of 16 bits
        if result.loss_sum is None:
            loss = _weighted(loss, result.loss_weight)
        self._loss_sum = loss.detach() if self._loss_sum is None else self._loss_sum + loss.detach()
        self._weight_sum = self._weight_sum + result.loss_weight
        return loss

    def finish(self) -> tuple[torch.Tensor, torch.Tensor | float]:
        """Combine what was counted on all processes, and reset the sums for the next step.

        Returns:
            The loss of the step over all processes, a scalar on the device, and the number by which the accumulated
            gradients must be divided, which is not zero.

        Raises:
            RuntimeError: If no micro-batch was counted.
        """
        loss, weight_sum = self._totals()
        divisor = _nonzero(weight_sum)
        self.reset()
        return _quotient(loss, divisor), divisor

    def reset(self) -> None:
        """Forget the losses that were counted."""
        self._loss_sum, self._weight_sum = None, 0.0

    def _totals(self) -> tuple[torch.Tensor, torch.Tensor | float]:
        """Return the sums of weighted losses and of weights, over all processes."""
        if self._group is not None:
            # Processes without the last stage of the pipeline have no losses and contribute zeros.
            sums = (0.0 if self._loss_sum is None else self._loss_sum, self._weight_sum)
            totals = torch.stack([self._scalar(each) for each in sums])
            distributed.all_reduce(totals, group=self._group)
            return totals[0], totals[1]
        if self._loss_sum is None:
            raise RuntimeError("no micro-batch was counted in this step: call scale_loss before reduce")
        return self._loss_sum, self._weight_sum

    def _scalar(self, number: torch.Tensor | float) -> torch.Tensor:
        if isinstance(number, torch.Tensor):
            return number.to(self._device, torch.float32)
        # A fill on the device: `torch.as_tensor` copies from pageable memory, which waits for an accelerator.
        return torch.full((), number, dtype=torch.float32, device=self._device)


def ignore_without_weight(outputs: Any, weight: torch.Tensor | float) -> None:
    """Make the gradients of a micro-batch zero if its weight is zero.

    A task that divides by its own number of tokens divides by zero there, and the gradient of that is NaN whatever the
    loss is multiplied with afterwards.

    Args:
        outputs: What the model returned.
        weight: The weight of the micro-batch. A tensor on the device is not read by the host.
    """
    if not isinstance(weight, torch.Tensor) and weight != 0:
        return
    for output in list_tensors(outputs):
        if output.requires_grad:
            output.register_hook(functools.partial(_masked, weight))  # type: ignore[no-untyped-call] # torch's own


def _masked(weight: torch.Tensor | float, gradient: torch.Tensor) -> torch.Tensor:
    return gradient.masked_fill(weight == 0, 0.0) if isinstance(weight, torch.Tensor) else torch.zeros_like(gradient)


def _weighted(loss: torch.Tensor, weight: torch.Tensor | float) -> torch.Tensor:
    """Multiply a loss by its weight; weight zero gives zero, even if the loss is NaN, as a mean over no tokens is."""
    if isinstance(weight, torch.Tensor):
        return torch.where(weight == 0, 0.0, loss) * weight
    if weight == 0:
        return loss.nan_to_num() * weight
    return loss if weight == 1.0 else loss * weight


def _nonzero(weight_sum: torch.Tensor | float) -> torch.Tensor | float:
    """Replace a sum of zero by one, so that a step without any weight has gradients of zero instead of NaN."""
    if isinstance(weight_sum, torch.Tensor):
        weight_sum = weight_sum.float()
        return torch.where(weight_sum == 0, 1.0, weight_sum)
    return weight_sum or 1.0


class GradientNorm:
    """Computes the L2 norm of all gradients of a job as if they were one vector.

    Each part of a gradient is counted by the first process that holds it. One all-reduce adds the squares over all
    processes: it covers the shards of all meshes and the stages of a pipeline, counts nothing twice, and gives every
    process the same bits. A value that is not finite on any process makes the norm infinite or NaN.
    `torch.nn.utils.clip_grad_norm_` accepts neither several meshes nor a mix of `DTensor` and plain tensors.

    A plain tensor is taken to be the same on all processes that hold the same stage, and is counted once. A gradient
    that is sharded must be a `DTensor`.

    Args:
        parameters: The parameters that this process holds, possibly none.
        dist_context: The processes of the job.
        copies: Those of them that do not count, because another parameter has the same gradient.
    """

    def __init__(
        self,
        parameters: Sequence[nn.Parameter],
        dist_context: DistributedContext,
        copies: Collection[nn.Parameter] = (),
    ) -> None:
        self._parameters = parameters
        self._copies = frozenset(copies)
        self._device = dist_context.device
        self._is_alone = dist_context.world_size == 1
        self._rank = dist_context.rank
        self._first_rank = 0 if self._is_alone else _first_rank_of_stage(dist_context)
        self._counted: dict[tuple[DeviceMesh, tuple[Placement, ...]], bool] = {}

    def measure(self) -> torch.Tensor:
        """Return the norm, a scalar on the device, without waiting for the device; every process must call this.

        Squares of 16-bit gradients are summed in fp32. In a job of one process, the result for other dtypes equals
        `torch.nn.utils.get_total_norm` bit for bit. In a job of several processes it is fp32, from a sum of squares in
        fp64, which cannot overflow.
        """
        with torch.no_grad():
            return self._norm_of(self._parameters) if self._is_alone else self._norm_of_job()

    def _norm_of_job(self) -> torch.Tensor:
        """Return the norm over all processes."""
        for parameter in self._parameters:
            _reduce_partial(parameter)
        counted: list[nn.Parameter] = []
        copies: list[nn.Parameter] = []
        for parameter in self._parameters:
            is_counted = parameter not in self._copies and self._is_counted_here(parameter.grad)
            (counted if is_counted else copies).append(parameter)
        # Copies add zero, unless they are not finite: zero times infinity is NaN, which the other processes then see.
        square = self._norm_of(counted).double().square() + self._norm_of(copies).double() * 0.0
        distributed.all_reduce(square)
        return square.sqrt().float()

    def _norm_of(self, parameters: Sequence[nn.Parameter]) -> torch.Tensor:
        norms: list[torch.Tensor] = []
        for group in local_gradients(parameters):
            group = [each.coalesce().values() if each.is_sparse else each for each in group]  # noqa: PLW2901
            dtype = torch.float32 if group[0].dtype in _HALF_PRECISION else None
            # `torch.nn.utils.get_total_norm` calls this without a dtype.
            of_group = torch._foreach_norm(group, 2.0, dtype=dtype)  # noqa: SLF001 -- the only function with a dtype
            is_here = group[0].device == self._device  # FSDP may offload gradients to the host
            norms.extend(of_group if is_here else (norm.to(self._device) for norm in of_group))
        if not norms:
            return torch.zeros((), device=self._device)
        total: torch.Tensor = torch.linalg.vector_norm(torch.stack(norms))
        return total

    def _is_counted_here(self, gradient: torch.Tensor | None) -> bool:
        """Return whether this is the first process of its pipeline stage that holds its part of a gradient."""
        if not isinstance(gradient, DTensor):
            return self._rank == self._first_rank
        key = (gradient.device_mesh, gradient.placements)
        if key not in self._counted:
            mesh, placements = key
            coordinate = mesh.get_coordinate() or ()
            # Other meshes may hold the same gradient, along a dimension that does not shard it.
            self._counted[key] = self._first_rank in mesh.mesh.flatten().tolist() and all(
                index == 0 for index, placement in zip(coordinate, placements, strict=True) if placement.is_replicate()
            )
        return self._counted[key]


def _first_rank_of_stage(dist_context: DistributedContext) -> int:
    """Return the lowest rank among the processes that hold the same stages as this one."""
    ranks = dist_context.mesh_for("dense").mesh  # the first dimension is the pipeline
    return int(ranks[dist_context.pipeline_rank].min())


def _reduce_partial(parameter: nn.Parameter) -> None:
    """All-reduce a gradient with partial placements: the norm of a summand is not part of the norm of the sum."""
    gradient = parameter.grad
    if isinstance(gradient, DTensor) and any(placement.is_partial() for placement in gradient.placements):
        placements = [Replicate() if placement.is_partial() else placement for placement in gradient.placements]
        parameter.grad = gradient.redistribute(placements=placements)


class GradientDtype:
    """Accumulates the gradients of 16-bit parameters in fp32, and casts them back for the optimizer.

    The backward pass of a micro-batch computes gradients in the dtype of the parameters. They are added to an fp32
    tensor, which is then scaled, measured and clipped. Torch's optimizers accept gradients only in the dtype of the
    parameters.

    Under FSDP, a sharded parameter receives the sum that the processes computed in `reduce_dtype`, rounded to the dtype
    of the parameter; accumulation over micro-batches then works in the same way.

    Args:
        modules: All modules that this process holds.
        gradient_dtype: The dtype of accumulation; `None` keeps the dtype of the parameters.

    Raises:
        ConfigurationError: If FSDP or DDP would still sum gradients in 16 bits.
    """

    def __init__(self, modules: list[nn.Module], gradient_dtype: Literal["fp32"] | None) -> None:
        self._upcast_by_autograd: list[nn.Parameter] = []
        self._upcast_by_hook: list[nn.Parameter] = []
        if gradient_dtype is None:
            return
        policies = _sharding_policies(modules)
        _refuse_replicas(modules)
        for parameter in _distinct_parameters(modules):
            if parameter in policies:
                _require_fp32_reduction(parameter, policies[parameter])
            if parameter.dtype not in _HALF_PRECISION:
                continue
            if parameter in policies:
                # FSDP assigns the first gradient in the dtype of the parameter, which `grad_dtype` would refuse.
                parameter.grad_dtype = None
                parameter.register_post_accumulate_grad_hook(_upcast)  # type: ignore[no-untyped-call] # torch's own
                self._upcast_by_hook.append(parameter)
            else:
                self._upcast_by_autograd.append(parameter)
        self.upcast()

    def downcast(self) -> None:
        """Cast the accumulated gradients to the dtype of their parameters, before the optimizer's step."""
        for parameter in self._upcast_by_autograd:
            if parameter.grad is not None:
                parameter.grad_dtype = None  # any dtype: torch allows no other change while there is a gradient
                parameter.grad = parameter.grad.to(parameter.dtype)
        for parameter in self._upcast_by_hook:
            if parameter.grad is not None:
                parameter.grad = parameter.grad.to(parameter.dtype)

    def upcast(self) -> None:
        """Prepare to accumulate in fp32, while there are no gradients."""
        for parameter in self._upcast_by_autograd:
            parameter.grad_dtype = torch.float32


def _upcast(parameter: torch.Tensor) -> None:
    """Cast the first gradient of a step to fp32, so that the others are added in fp32."""
    if parameter.grad is not None and parameter.grad.dtype != torch.float32:
        parameter.grad = parameter.grad.float()


def _distinct_parameters(modules: list[nn.Module]) -> list[nn.Parameter]:
    return list(dict.fromkeys(parameter for module in modules for parameter in module.parameters()))


def _sharding_policies(modules: list[nn.Module]) -> dict[nn.Parameter, Any]:
    """Return the mixed-precision policy of each parameter that FSDP holds."""
    policies: dict[nn.Parameter, Any] = {}
    for module in (inner for outer in modules for inner in outer.modules()):  # outermost first, so the innermost wins
        if isinstance(module, FSDPModule):
            policy = module._get_fsdp_state()._mp_policy  # noqa: SLF001 -- no public attribute
            policies.update({each: policy for each in module.parameters() if isinstance(each, DTensor)})
    return policies


def _require_fp32_reduction(parameter: nn.Parameter, policy: Any) -> None:
    dtype = policy.reduce_dtype or policy.param_dtype or parameter.dtype
    if dtype in _HALF_PRECISION:
        raise ConfigurationError(
            f"gradient_dtype='fp32' needs gradients that are summed in fp32, but FSDP reduces those of a parameter of "
            f"shape {list(parameter.shape)} in {dtype}: shard it with "
            "MixedPrecisionPolicy(reduce_dtype=torch.float32), or set gradient_dtype=None"
        )


def _refuse_replicas(modules: list[nn.Module]) -> None:
    """Refuse DDP over 16-bit parameters: it copies gradients into buffers of that dtype."""
    for module in (inner for outer in modules for inner in outer.modules()):
        is_replica = isinstance(module, DistributedDataParallel) or (is_replicated_by_ddp(module))
        if is_replica and any(parameter.dtype in _HALF_PRECISION for parameter in module.parameters()):
            raise ConfigurationError(
                "gradient_dtype='fp32' does not work with DDP over 16-bit parameters, because DDP accumulates "
                "gradients in 16 bits: keep the parameters in fp32 with precision='bf16-autocast', or replicate them "
                "with fully_shard over a mesh of one shard and MixedPrecisionPolicy(reduce_dtype=torch.float32)"
            )


class BufferSnapshot:
    """The buffers of a model before a step, such as the statistics of batch normalisation.

    The forward passes of a step that is then skipped have changed them, perhaps to NaN.

    Args:
        modules: The modules whose buffers are kept.
    """

    def __init__(self, modules: Iterable[nn.Module]) -> None:
        self._buffers = [*dict.fromkeys(buffer for module in modules for buffer in module.buffers())]
        self._saved = [torch.empty_like(buffer) for buffer in self._buffers]

    def __bool__(self) -> bool:
        """Return whether there is anything to keep: even an empty copy would take as long as several handlers."""
        return bool(self._buffers)

    @torch.no_grad()
    def take(self) -> None:
        """Copy the buffers."""
        for saved, buffer in zip(self._saved, self._buffers, strict=True):
            saved.copy_(buffer)

    @torch.no_grad()
    def restore_if(self, condition: torch.Tensor) -> None:
        """Give the buffers their values of the last copy if a condition is true, without waiting for the device.

        Args:
            condition: A boolean scalar on the device.
        """
        for saved, buffer in zip(self._saved, self._buffers, strict=True):
            buffer.copy_(torch.where(condition, saved, buffer))


class NonFiniteGradients:
    """Skips the steps whose gradient norm is not finite, on all processes alike, without waiting for the device.

    It also skips the steps that a handler of `train.gradients.ready` asks to skip, whatever the policy. They do not
    count as steps whose norm is not finite, even if it is not.

    The optimizer receives the decision on the device as `found_inf`, just as from `torch.amp.GradScaler`; its
    fused kernels then change neither weights nor state. `skip` continues with the next step. `stop` skips this step and
    all later ones, and raises a few steps later, at the same step on every process: each process reads the norm, which
    all of them share, a fixed number of steps after its copy to the host began, when it has usually arrived. In the
    last step and before every save (`require_finite`) it is read at once, so that no checkpoint has a skipped step.

    Args:
        config: The policy, where `allow` does nothing.
        optimizer: Updates the parameters.
        stepper: Counts the steps.
        buffers: The buffers of the model before the step, which a skipped step gets back; `None` keeps the new ones.

    Raises:
        ConfigurationError: If the optimizer cannot skip a step on the device.
    """

    def __init__(
        self,
        config: TrainingConfig,
        optimizer: OptimizerProtocol,
        stepper: Stepper,
        buffers: BufferSnapshot | None = None,
    ) -> None:
        self._buffers = BufferSnapshot([]) if buffers is None else buffers
        self._policy = config.non_finite_gradients
        if self._policy != "allow":
            setting = f"non_finite_gradients={self._policy!r}"
            _require_support(setting, optimizer, alternative="set non_finite_gradients='allow'")
        self._optimizer: Any = optimizer
        self._stepper = stepper
        self._num_skipped: torch.Tensor | None = None
        self._first_norm: torch.Tensor | None = None
        self._reports: collections.deque[_Report] = collections.deque()

    @property
    def num_skipped(self) -> torch.Tensor | None:
        """How many steps were skipped since this process started: a scalar on the device; `None` before the first."""
        return self._num_skipped

    def check_finite(self, norm: torch.Tensor | None, skip_condition: torch.Tensor | None = None) -> None:
        """Make the optimizer skip its next step if the norm is not finite, or a condition is true.

        Args:
            norm: The norm of all gradients of the job, a scalar on the device; may be `None` with the policy `allow`.
            skip_condition: A boolean scalar on the device; `None` stands for false.

        Raises:
            NonFiniteGradientsError: With the policy `stop`, if the norm was not finite a few steps ago, or in any step
                when this is the last one.
        """
        if self._policy == "allow" or norm is None:
            if skip_condition is not None:
                _start_momentum(self._optimizer)
                self._skip_if(skip_condition)
            return
        if self._num_skipped is None:
            _start_momentum(self._optimizer)
            self._num_skipped = norm.new_zeros((), dtype=torch.float32)
        found = torch.isfinite(norm).logical_not_()
        if skip_condition is not None:
            found.logical_and_(~skip_condition)
        if self._policy == "stop":
            has_stopped = self._num_skipped > 0
            self._first_norm = norm if self._first_norm is None else torch.where(has_stopped, self._first_norm, norm)
            found.logical_or_(has_stopped)
        self._num_skipped = self._num_skipped + found
        self._skip_if(found if skip_condition is None else found | skip_condition)
        if self._first_norm is not None:
            self._raise_if_old(_Report.send(self._stepper.current_step, self._num_skipped, self._first_norm))

    def step_done(self) -> None:
        """Forget the condition under which the optimizer skipped its last step."""
        if self._policy == "allow":
            self._optimizer.found_inf = None

    def _skip_if(self, condition: torch.Tensor) -> None:
        self._optimizer.found_inf = condition.float()  # the fused kernels read fp32
        if self._buffers:
            self._buffers.restore_if(condition)

    def require_finite(self) -> None:
        """Wait for the newest norm with the policy `stop`; with any other there is nothing to wait for.

        Raises:
            NonFiniteGradientsError: If the norm of any step was not finite.
        """
        if self._reports:
            self._reports[-1].require_finite()

    def _raise_if_old(self, newest: "_Report") -> None:
        self._reports.append(newest)
        oldest = self._reports.popleft() if len(self._reports) > _LAG_STEPS else None
        report = newest if self._stepper.is_last else oldest
        if report is not None:
            report.require_finite()


@dataclasses.dataclass(frozen=True)
class _Report:
    """How many steps were skipped up to a step, and the norm of the first of them, on their way to the host."""

    step: int
    numbers: torch.Tensor
    event: torch.Event | None

    @classmethod
    def send(cls, step: int, num_skipped: torch.Tensor, norm: torch.Tensor) -> "_Report":
        """Start copying the numbers from the device to the host."""
        numbers = torch.stack([num_skipped, norm.float()])
        copied = copy_to_host(numbers)
        if not has_streams(numbers.device):
            return cls(step, copied, None)
        event = torch.Event(numbers.device)
        event.record()
        return cls(step, copied, event)

    def require_finite(self) -> None:
        """Wait for the numbers, and raise if a step was skipped."""
        if self.event is not None:
            self.event.synchronize()
        num_skipped, norm = self.numbers.tolist()
        if num_skipped:
            step = self.step + 2 - int(num_skipped)  # all steps since the first one; users count from 1
            raise NonFiniteGradientsError(
                f"the gradient norm is {norm} in step {step}, on all processes. The weights are those from before that "
                f"step: no later step was applied or saved. Check its batch, loss and learning rate, or set "
                f"non_finite_gradients='skip' to skip such steps"
            )


def _require_condition(condition: object, device: torch.device) -> None:
    """Refuse a condition of `skip_update` that the device cannot read."""
    example = "pass a boolean scalar on the device, such as `ctx.norm > 100`"
    if not isinstance(condition, torch.Tensor) or isinstance(condition, DTensor):
        raise TypeError(f"skip_update got a {type(condition).__qualname__}: {example}")
    if condition.dtype != torch.bool or condition.numel() != 1:
        raise TypeError(f"skip_update got a {condition.dtype} of shape {list(condition.shape)}: {example}")
    if condition.device != device:
        raise ValueError(
            f"skip_update got a condition on {condition.device}, but the gradients are on {device}: {example}"
        )


def _require_support(setting: str, optimizer: OptimizerProtocol, *, alternative: str) -> None:
    """Refuse an optimizer that can only skip a step by asking the host."""
    name = type(optimizer).__name__
    remedy = f"use torch.optim.AdamW(…, fused=True), or {alternative}"
    # `torch.amp.GradScaler` recognises such optimizers, also those of other packages, by the same attribute.
    if not getattr(optimizer, "_step_supports_amp_scaling", False):
        raise ConfigurationError(
            f"{setting} needs an optimizer that can skip a step on the device, as AdamW, Adam, SGD and Adagrad of "
            f"torch.optim can with fused=True. This {name} cannot: if it is one of them, create it with fused=True; "
            f"otherwise {remedy}"
        )
    groups: list[dict[str, Any]] = getattr(optimizer, "param_groups", [])
    is_sharded = [{isinstance(parameter, DTensor) for parameter in group["params"]} for group in groups]
    if isinstance(optimizer, torch.optim.SGD | torch.optim.Adagrad) and any(True in kinds for kinds in is_sharded):
        raise ConfigurationError(
            f"{setting} needs fused=True, with which {name} does not support sharded parameters (DTensor): {remedy}"
        )
    if isinstance(optimizer, torch.optim.Optimizer) and any(len(kinds) > 1 for kinds in is_sharded):
        raise ConfigurationError(
            f"{setting} needs fused=True, with which {name} does not support sharded parameters (DTensor) and plain "
            f"ones in one group, as in group {[len(kinds) > 1 for kinds in is_sharded].index(True)}: put them into two "
            "groups"
        )
    if isinstance(optimizer, torch.optim.SGD) and any(group["momentum"] and group["dampening"] for group in groups):
        raise ConfigurationError(
            f"{setting} needs fused=True, with which SGD cannot skip its first step if it has momentum and dampening: "
            "set dampening=0"
        )


def _start_momentum(optimizer: OptimizerProtocol) -> None:
    """Give SGD momentum of zero, with which its first step is the one that it would take without any.

    Where torch's fused SGD leaves out its first step, it keeps uninitialised memory for the momentum (as of 2.13).
    """
    if not isinstance(optimizer, torch.optim.SGD):
        return
    for group in optimizer.param_groups:
        for parameter in group["params"] if group["momentum"] else ():
            state = optimizer.state[parameter]
            if parameter.requires_grad and state.get("momentum_buffer") is None:
                state["momentum_buffer"] = torch.zeros_like(parameter, requires_grad=False)
