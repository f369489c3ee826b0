"""Where the tensors of a checkpoint lie in its files, in JSON, and read without loading torch's own checkpoints."""

import json
from pathlib import Path
from typing import Any

INDEX = "tensors.json"


def read_index(folder: Path) -> dict[str, Any]:
    """Read which tensors there are, and where in which file each part of them lies.

    Args:
        folder: What `save_tensors` wrote to.

    Returns:
        For each name the `dtype`, the `shape` of the whole, and `chunks`: their offsets in it and their sizes, then
        their file, where in it they begin, and how many bytes they have.
    """
    index: dict[str, Any] = json.loads((folder / INDEX).read_text(encoding="utf-8"))
    return index
