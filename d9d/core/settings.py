"""The base class of all settings, and the error for settings that do not work."""

import difflib
import re
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, model_validator
from pydantic_core import PydanticCustomError


class ConfigurationError(ValueError):
    """Settings that do not work together, or not with the data, the model or the processes of the job."""


class Settings(BaseModel):
    """A group of settings. It is immutable, and refuses unknown fields."""

    # Settings are in checkpoints and trackers as JSON, which has no infinity.
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _suggest_known_fields(cls, values: Any) -> Any:
        for name in values if isinstance(values, dict) else ():
            close = difflib.get_close_matches(str(name), cls.model_fields, n=1)
            if name not in cls.model_fields and close:
                raise PydanticCustomError(
                    "unknown_field",
                    "{group} has no field '{field}'; did you mean '{known}'?",
                    {"group": cls.__name__, "field": str(name), "known": close[0]},
                )
        return values


def require_local(path: object) -> object:
    """Refuse the address of something that is no file or folder of this machine.

    Args:
        path: A path, or anything else, which is returned.

    Returns:
        The same; a path in the home directory, `~/runs`, with the name of that directory.

    Raises:
        ValueError: If it is an address such as `s3://bucket/run`. `pathlib` makes `s3:/bucket/run` of it.
    """
    if isinstance(path, str | Path) and re.match(r"[a-zA-Z][a-zA-Z0-9+.-]+:/", str(path)):
        raise ValueError(
            f"{str(path)!r} is the address of a remote store, and d9d reads and writes paths of this machine: mount "
            "the store, or copy the files"
        )
    if isinstance(path, str | Path) and str(path).startswith("~/"):
        return Path(path).expanduser()  # a shell does so only for words of a command
    return path


LocalPath = Annotated[Path, BeforeValidator(require_local)]
"""A file or a folder of this machine; `~/` is the home directory."""
