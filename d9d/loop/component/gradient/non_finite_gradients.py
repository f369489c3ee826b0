"""What happens in a step whose gradients are not finite."""

import collections
import dataclasses
from typing import Any

import torch

from d9d.core.protocol import OptimizerProtocol
from d9d.core.sharding import is_dtensor
from d9d.core.stepper import Stepper
from d9d.loop.config import ConfigurationError, TrainingConfig

_LAG_STEPS = 4  # so many steps are then queued on the device: it never idles while the host waits for an older one
_UNPINNED_DEVICE_TYPES = frozenset({"cpu", "mps"})


class NonFiniteGradientsError(RuntimeError):
    """The gradients of a step are infinite or not numbers."""


class NonFiniteGradients:
    """Leaves out the steps whose gradient norm is not finite, on every process alike, without waiting for the device.

    The optimizer gets the answer on the device, as `found_inf`, the way `torch.amp.GradScaler` hands it over: its fused
    kernels then change neither weights nor state. `skip` goes on with the next step. `stop` leaves out all steps
    from then on and raises a few steps later, at the same step on every process: each reads the norm, which all of them
    share, a fixed number of steps after it was copied to the host, when the wait for it is over in practice. Before
    anything is saved, and in the last step, it is read at once, so that no checkpoint holds a step that was left out.

    Args:
        config: Says what to do, where `allow` is to do nothing at all, and how often a checkpoint is taken.
        optimizer: Updates the parameters.
        stepper: Knows the steps.

    Raises:
        ConfigurationError: If the optimizer cannot leave out a step on the device.
    """

    def __init__(self, config: TrainingConfig, optimizer: OptimizerProtocol, stepper: Stepper) -> None:
        self._policy = config.non_finite_gradients
        if self._policy != "allow":
            _require_support(self._policy, optimizer)
        self._optimizer: Any = optimizer
        self._stepper = stepper
        self._save_period_steps = config.checkpointing.period_steps if config.checkpointing is not None else None
        self._num_skipped: torch.Tensor | None = None
        self._first_norm: torch.Tensor | None = None
        self._reports: collections.deque[_Report] = collections.deque()

    @property
    def num_skipped(self) -> torch.Tensor | None:
        """How many steps were left out since this process began: a scalar on the device; `None` before the first."""
        return self._num_skipped

    def judge(self, norm: torch.Tensor | None) -> None:
        """Tell the optimizer whether the step that comes is to be left out.

        Args:
            norm: That of all gradients of the job, a scalar on the device; may be `None` where the policy is `allow`.

        Raises:
            NonFiniteGradientsError: If the policy is `stop`, and the norm of a step that is old enough, or of any step
                where a checkpoint is due or the loop ends, was not finite.
        """
        if self._policy == "allow" or norm is None:
            return
        if self._num_skipped is None:
            _start_momentum(self._optimizer)
            self._num_skipped = norm.new_zeros((), dtype=torch.float32)
        found = torch.isfinite(norm).logical_not_()
        if self._policy == "stop":
            has_stopped = self._num_skipped > 0
            self._first_norm = norm if self._first_norm is None else torch.where(has_stopped, self._first_norm, norm)
            found.logical_or_(has_stopped)
        self._optimizer.found_inf = found.float()  # fp32 is what the fused kernels read
        self._num_skipped = self._num_skipped + self._optimizer.found_inf
        if self._first_norm is not None:
            self._raise_if_old(_Report.send(self._stepper.current_step, self._num_skipped, self._first_norm))

    def _raise_if_old(self, newest: "_Report") -> None:
        self._reports.append(newest)
        oldest = self._reports.popleft() if len(self._reports) > _LAG_STEPS else None
        is_due = self._stepper.is_last or self._stepper.is_due(self._save_period_steps)
        report = newest if is_due else oldest
        if report is not None:
            report.require_finite()


@dataclasses.dataclass(frozen=True)
class _Report:
    """What the host is told of a step: how many steps were left out, and the norm of the first of them."""

    step: int
    numbers: torch.Tensor
    event: torch.Event | None

    @classmethod
    def send(cls, step: int, num_skipped: torch.Tensor, norm: torch.Tensor) -> "_Report":
        """Begin to copy the numbers from the device to the host."""
        numbers = torch.stack([num_skipped, norm.float()])
        if numbers.device.type == "cpu":
            return cls(step, numbers, None)
        received = torch.empty(2, pin_memory=numbers.device.type not in _UNPINNED_DEVICE_TYPES)
        received.copy_(numbers, non_blocking=True)
        event = torch.Event(numbers.device)
        event.record()
        return cls(step, received, event)

    def require_finite(self) -> None:
        """Wait until the numbers are here, and raise if a step was left out."""
        if self.event is not None:
            self.event.synchronize()
        num_skipped, norm = self.numbers.tolist()
        if num_skipped:
            step = self.step + 2 - int(num_skipped)  # all steps from the first on; people count from 1
            raise NonFiniteGradientsError(
                f"the norm of the gradients is {norm} in step {step}, on all processes alike; the weights are those "
                f"from before that step, and no later one was taken or saved. Look at its batch, loss and learning "
                f"rate, or set non_finite_gradients='skip' to leave such steps out"
            )


def _require_support(policy: str, optimizer: OptimizerProtocol) -> None:
    """Refuse an optimizer that would have to ask the host whether to take a step."""
    name = type(optimizer).__name__
    setting = f"non_finite_gradients={policy!r}"
    remedy = "use torch.optim.AdamW(…, fused=True), or set non_finite_gradients='allow'"
    # The sign of torch's own optimizers, and of others, by which `torch.amp.GradScaler` knows them.
    if not getattr(optimizer, "_step_supports_amp_scaling", False):
        raise ConfigurationError(
            f"{setting} needs an optimizer that leaves out a step on the device, as AdamW, Adam, SGD and Adagrad of "
            f"torch.optim do with fused=True, and {name} as it was made does not: make it with fused=True if it is one "
            f"of them; otherwise {remedy}"
        )
    groups: list[dict[str, Any]] = getattr(optimizer, "param_groups", [])
    is_sharded = [{is_dtensor(parameter) for parameter in group["params"]} for group in groups]
    if isinstance(optimizer, torch.optim.SGD | torch.optim.Adagrad) and any(True in kinds for kinds in is_sharded):
        raise ConfigurationError(f"{setting}: torch's fused {name} takes no sharded parameters (DTensor): {remedy}")
    if isinstance(optimizer, torch.optim.Optimizer) and any(len(kinds) > 1 for kinds in is_sharded):
        raise ConfigurationError(
            f"{setting}: torch's fused optimizers take no sharded parameters (DTensor) beside plain ones in one group, "
            f"as in group {[len(kinds) > 1 for kinds in is_sharded].index(True)} of {name}: make a group of each"
        )
    if isinstance(optimizer, torch.optim.SGD) and any(group["momentum"] and group["dampening"] for group in groups):
        raise ConfigurationError(
            f"{setting}: torch's fused SGD cannot leave out its first step with momentum and dampening: set dampening=0"
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
