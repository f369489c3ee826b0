"""Files that are on disk when the function that writes them returns."""

import json
import os
from pathlib import Path
from typing import Any


def write_json(path: Path, content: Any) -> None:
    """Write JSON for people and programs.

    Args:
        path: The file.
        content: What JSON can hold.
    """
    with path.open("w", encoding="utf-8") as file:
        json.dump(content, file, indent=1)
        file.flush()
        os.fsync(file.fileno())


def synchronize_folder(folder: Path) -> None:
    """Have the names in a folder on disk, not only the files that they name.

    Args:
        folder: The folder.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
