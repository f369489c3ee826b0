"""What a checkpoint says, for people, of the job that has taken it."""

import hashlib
import importlib.metadata
import importlib.resources
import json
import platform
from typing import Any

import torch

from d9d.loop.config import LoopConfig

_CATALOGUE = "d9d.loop.event.catalogue"
_NUM_DIGITS = 16


def describe_job(config: LoopConfig) -> dict[str, Any]:
    """Describe a job by its settings, and by the events that its loop triggers.

    Args:
        config: The settings.

    Returns:
        The mesh, all settings and their digest, and that of the catalogue of events, in JSON's types.
    """
    configuration = config.model_dump(mode="json")
    text = json.dumps(configuration, sort_keys=True).encode()
    return {
        "mesh": configuration["mesh"],
        "catalogue_digest": _catalogue_digest(),
        "configuration_digest": hashlib.sha256(text).hexdigest()[:_NUM_DIGITS],
        "configuration": configuration,
    }


def describe_software() -> dict[str, str]:
    """Return the versions of what runs the job."""
    return {"d9d": _own_version(), "torch": torch.__version__, "python": platform.python_version()}


def _catalogue_digest() -> str:
    """Return the digest that the compiler of the catalogue has left in its index."""
    index = importlib.resources.files(_CATALOGUE) / "index.json"
    digests: str = json.loads(index.read_text(encoding="utf-8"))["digests"]
    return digests.partition(",")[0].removeprefix("catalogue ")


def _own_version() -> str:
    try:
        return importlib.metadata.version("d9d")
    except importlib.metadata.PackageNotFoundError:  # used from a source tree
        return "unknown"
