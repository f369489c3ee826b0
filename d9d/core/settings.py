"""The base class of all settings, and the error for settings that cannot work."""

import difflib
from typing import Any

from pydantic import BaseModel, ConfigDict, model_validator


class ConfigurationError(ValueError):
    """Settings that cannot work together, or not with the data or the processes, found before the model is built."""


class Settings(BaseModel):
    """A group of settings: checked whole, unchanging, and aware of their fields."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _suggest_known_fields(cls, values: Any) -> Any:
        for name in values if isinstance(values, dict) else ():
            close = difflib.get_close_matches(str(name), cls.model_fields, n=1)
            if name not in cls.model_fields and close:
                raise ValueError(f"{cls.__name__} has no field {name!r}; did you mean {close[0]!r}?")
        return values
