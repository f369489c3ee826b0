"""The learning rates of an optimizer."""

import torch

from d9d.core.protocol import OptimizerProtocol


def learning_rates(optimizer: OptimizerProtocol | None) -> dict[str, float | torch.Tensor]:
    """Return the learning rates as they stand, without waiting for a device that has them.

    Args:
        optimizer: The optimizer; only those of torch are known to have learning rates.

    Returns:
        `learning_rate` where there is one group of parameters, else one for each group, by its index.
    """
    if not isinstance(optimizer, torch.optim.Optimizer):
        return {}
    rates = [group["lr"] for group in optimizer.param_groups if "lr" in group]
    # A tensor on the host is a number that nobody waits for; a copy, since schedulers change it in place.
    known = [rate.clone() if _is_on_device(rate) else float(rate) for rate in rates]
    names = ["learning_rate"] if len(known) == 1 else [f"learning_rate/{index}" for index in range(len(known))]
    return dict(zip(names, known, strict=True))


def _is_on_device(rate: object) -> bool:
    return isinstance(rate, torch.Tensor) and rate.device.type != "cpu"
