"""The base class of all settings, and the error for settings that do not work."""

import difflib
from typing import Any

from pydantic import BaseModel, ConfigDict, model_validator


class ConfigurationError(ValueError):
    """Settings that do not work together, or not with the data, the model or the processes of the job."""


class Settings(BaseModel):
    """A group of settings. It is immutable, and refuses unknown fields."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _suggest_known_fields(cls, values: Any) -> Any:
        for name in values if isinstance(values, dict) else ():
            close = difflib.get_close_matches(str(name), cls.model_fields, n=1)
            if name not in cls.model_fields and close:
                raise ValueError(f"{cls.__name__} has no field {name!r}; did you mean {close[0]!r}?")
        return values
