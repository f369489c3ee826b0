"""What the loops ask of the parts that users bring."""

from d9d.core.protocol.lr_scheduler import LRSchedulerProtocol
from d9d.core.protocol.optimizer import OptimizerProtocol
from d9d.core.protocol.stateful import Stateful

__all__ = ["LRSchedulerProtocol", "OptimizerProtocol", "Stateful"]
