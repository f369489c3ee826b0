"""The JSON Schema of a catalogue, by which editors complete keys and show what they mean."""

import json
from typing import Final

from d9d_codegen.shape import CATALOGUE, Key, Listed, Named, Shape, Value

_KINDS: Final[dict[tuple[str, ...], dict[str, object]]] = {
    ("text",): {"type": "string", "pattern": r"\S"},
    ("a truth value",): {"type": "boolean"},
    ("a whole number",): {"type": "integer"},
    (): {"type": ["string", "number", "boolean", "null"]},
}
_PATTERNS: Final = {
    "id": r"^[a-z][a-z0-9_]*(\.[a-z][a-z0-9_]*)+$",
    "package": r"^[^\W\d]\w*(\.[^\W\d]\w*)*$",
    "phase": r"^[a-z][a-z0-9_]*$",
}
_NAMES: Final = {
    "module": r"^[^\W\d_]\w*$",
    "phase": r"^[a-z][a-z0-9_]*$",
    "context": r"^[^\W\d_][^\W_]*$",
    "field": r"^[^\W\d_]\w*$",
    "event": r"^[^\W\d_]\w*$",
}


def schema() -> str:
    """Return the text of the schema."""
    content = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "A catalogue of events",
        "description": "Each event, its phase and its context are declared here; d9d-catalogue generates the rest.",
        **_entry(CATALOGUE),
    }
    return json.dumps(content, indent=2) + "\n"


def _entry(shape: Shape) -> dict[str, object]:
    required = [name for name, key in shape.keys.items() if key.required]
    return {
        "type": "object",
        "properties": {name: {"description": key.doc, **_value(name, key)} for name, key in shape.keys.items()},
        **({"required": required} if required else {}),
        "additionalProperties": False,
    }


def _value(name: str, key: Key) -> dict[str, object]:
    match key.value:
        case Shape():
            return _entry(key.value)
        case Listed():
            return {"type": "array", "items": {"type": "string", "pattern": r"\S"}}
        case Named(shape=shape):
            names = {"pattern": _NAMES[shape.noun]}
            return {"type": "object", "propertyNames": names, "additionalProperties": _entry(shape)}
        case Value(kinds=kinds, choices=choices):
            return _scalar(name, kinds, choices)


def _scalar(name: str, kinds: tuple[str, ...], choices: tuple[str, ...]) -> dict[str, object]:
    if choices:
        return {"enum": [int(choice) if kinds == ("a whole number",) else choice for choice in choices]}
    return {**_KINDS[kinds], **({"pattern": _PATTERNS[name]} if name in _PATTERNS else {})}
