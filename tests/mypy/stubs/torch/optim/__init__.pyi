from typing import Any

class Optimizer:
    param_groups: list[dict[str, Any]]
