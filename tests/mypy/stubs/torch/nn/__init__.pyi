from torch import Tensor
from torch.nn.modules import Module as Module

class Parameter(Tensor):
    grad: Tensor | None
