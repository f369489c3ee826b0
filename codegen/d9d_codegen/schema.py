"""The schema of `catalogue.yaml`: its keys, the check of a tree against it, and the JSON Schema for editors."""

import json
from dataclasses import dataclass
from typing import Final

from d9d_codegen.diagnostic import Diagnostics, Text, is_forbidden, suggestion
from d9d_codegen.read import Mapping, Node, Scalar, Sequence

VERSION: Final = "1"


@dataclass(frozen=True, slots=True)
class Value:
    """A scalar.

    Attributes:
        kinds: The kinds of YAML scalar allowed; any where this is empty.
        choices: The only values allowed, if they are limited.
    """

    kinds: tuple[str, ...] = ("text",)
    choices: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Listed:
    """A list of texts."""


@dataclass(frozen=True, slots=True)
class Named:
    """A mapping from names that the user chooses to entries of one shape."""

    shape: "Shape"


@dataclass(frozen=True, slots=True)
class Key:
    """A key of an entry.

    Attributes:
        value: What it holds.
        doc: What it means.
        required: Whether the entry must have it.
    """

    value: "Value | Listed | Named | Shape"
    doc: str
    required: bool = False


@dataclass(frozen=True, slots=True)
class Shape:
    """An entry: a mapping with known keys.

    Attributes:
        noun: What such an entry is called.
        keys: The keys that it may have.
    """

    noun: str
    keys: dict[str, Key]


_TEXT: Final = Value()
_FLAG: Final = Value(kinds=("a boolean",))
_ALLOW: Final = {"allow": Key(Listed(), "The rules that are suppressed in it; see docs/catalogue/rules.md.")}
_DEPRECATED: Final = Shape(
    "",
    {
        "since": Key(_TEXT, 'The version that deprecated it, in quotes: "0.2".', required=True),
        "replaced_by": Key(_TEXT, "The name of its replacement."),
        "note": Key(_TEXT, "Further advice."),
    },
)
_STATUS: Final = {
    "since": Key(_TEXT, 'The version that added it, in quotes: "0.2".'),
    "stability": Key(Value(choices=("experimental", "stable")), "Whether it may still change."),
    "deprecated": Key(_DEPRECATED, "Announces its removal."),
    **_ALLOW,
}
_FIELD: Final = Shape(
    "field",
    {
        "type": Key(_TEXT, "A Python type whose names are builtins or full dotted paths.", required=True),
        "doc": Key(_TEXT, "What it means.", required=True),
        "default": Key(Value(kinds=()), "A Python literal, where the field may be left out."),
        "device": Key(_FLAG, "The value is on the device: reading it makes the host wait."),
        **_STATUS,
    },
)
_CONTEXT: Final = Shape(
    "context",
    {
        "doc": Key(_TEXT, "What it means.", required=True),
        "fields": Key(Named(_FIELD), "What it carries."),
        **_STATUS,
    },
)
_PHASE: Final = Shape(
    "phase",
    {
        "doc": Key(_TEXT, "What happens in it.", required=True),
        "repeats": Key(_FLAG, "It may run more than once."),
        "optional": Key(_FLAG, "A run may skip it."),
        "anytime": Key(_FLAG, "Its events may fall between any two others."),
        "around": Key(_TEXT, "It may stand before, between and after runs of this phase."),
        "any_order": Key(_FLAG, "Its events keep no order."),
        "aborts": Key(_FLAG, "It may follow any event; only a terminal phase follows it."),
        "terminal": Key(_FLAG, "Nothing follows it, and every complete run ends in it."),
        **_ALLOW,
    },
)
_EVENT: Final = Shape(
    "event",
    {
        "id": Key(_TEXT, "Its id on the bus; begins with the module's name.", required=True),
        "phase": Key(_TEXT, "The phase that it belongs to.", required=True),
        "context": Key(_TEXT, "Its context: of this module, of common, or a full dotted path.", required=True),
        "doc": Key(_TEXT, "When it is triggered.", required=True),
        "repeats": Key(_FLAG, "It may be triggered more than once in a row."),
        "optional": Key(_FLAG, "A run may skip it."),
        "ends": Key(_TEXT, "The event that it closes; its `repeats` and `optional` are meant for both."),
        "after": Key(_TEXT, "The event that must have been triggered before it."),
        **_STATUS,
    },
)
_MODULE: Final = Shape(
    "module",
    {
        "doc": Key(_TEXT, "What it is about.", required=True),
        "phases": Key(Named(_PHASE), "In the order in which a run passes through them."),
        "contexts": Key(Named(_CONTEXT), "What its events pass to their handlers."),
        "events": Key(Named(_EVENT), "In the order in which the loop triggers them."),
        **_ALLOW,
    },
)
CATALOGUE: Final = Shape(
    "catalogue",
    {
        "version": Key(Value(kinds=("an integer",), choices=(VERSION,)), "The version of this format.", required=True),
        "package": Key(_TEXT, "The Python package that the modules are written into.", required=True),
        "modules": Key(Named(_MODULE), "Each becomes one Python module.", required=True),
    },
)


def check_shape(node: Node, shape: Shape, diagnostics: Diagnostics, at: Text | None = None) -> None:
    """Add a diagnostic for each way in which an entry differs from its shape.

    Args:
        node: The entry.
        shape: The expected shape.
        diagnostics: Takes what is wrong.
        at: The key that holds the entry; None for the catalogue itself.
    """
    if not isinstance(node, Mapping):
        _refuse_kind(node, shape.noun if at is None else at, "a mapping", diagnostics)
        return
    owner = f"the {shape.noun}" if at is None else f"{shape.noun} {at}" if shape.noun else f'"{at}"'
    for key, value in node.entries.items():
        if key in shape.keys:
            _check_value(key, value, shape.keys[key], diagnostics)
        elif key:
            known = ", ".join(shape.keys)
            remedy = suggestion(key, shape.keys, f"the keys are {known}")
            diagnostics.add("unknown-key", key, f'unknown key "{key}" in {owner}', remedy)
    for name, required in shape.keys.items():
        if required.required and name not in node.entries:
            remedy = f"add `{name}:`, {required.doc[0].lower()}{required.doc[1:].removesuffix('.')}"
            diagnostics.add("missing-key", node.span if at is None else at, f'{owner} needs the key "{name}"', remedy)


def _check_value(key: Text, node: Node, expected: Key, diagnostics: Diagnostics) -> None:
    match expected.value:
        case Shape():
            check_shape(node, expected.value, diagnostics, key)
        case Named():
            if not isinstance(node, Mapping):
                _refuse_kind(node, key, "a mapping", diagnostics)
                return
            for name, entry in node.entries.items():
                if name:
                    check_shape(entry, expected.value.shape, diagnostics, name)
        case Listed():
            _check_list(key, node, diagnostics)
        case Value():
            _check_scalar(key, node, expected.value, diagnostics)


def _check_list(key: Text, node: Node, diagnostics: Diagnostics) -> None:
    if not isinstance(node, Sequence):
        _refuse_kind(node, key, "a list", diagnostics)
        return
    for item in node.items:
        _check_scalar(key, item, _TEXT, diagnostics)


def _check_scalar(key: Text, node: Node, expected: Value, diagnostics: Diagnostics) -> None:
    if not node.kind:
        return
    if not isinstance(node, Scalar) or (expected.kinds and node.kind not in expected.kinds):
        _refuse_kind(node, key, expected.kinds[0] if expected.kinds else "a literal", diagnostics)
    elif not node.text.strip():
        diagnostics.add("empty-text", node.text, f'"{key}" is empty', "write some text")
    elif not node.text.isprintable() and any(map(is_forbidden, node.text)):
        diagnostics.add(
            "control-character",
            node.text,
            f'"{key}" contains the unprintable character U+{ord(next(filter(is_forbidden, node.text))):04X}',
            "remove it",
        )
    elif expected.choices and node.text not in expected.choices:
        remedy = suggestion(node.text, expected.choices, f"use {' or '.join(expected.choices)}")
        diagnostics.add(f"unknown-{key}", node.text, f'unknown {key} "{node.text}"', remedy)


def _refuse_kind(node: Node, key: str, expected: str, diagnostics: Diagnostics) -> None:
    if not node.kind:
        return
    remedy = (
        "put it in quotes" if expected == "text" and isinstance(node, Scalar) and node.text else f"write {expected}"
    )
    if node.kind == "null" and expected == "a mapping":
        remedy = "write {} or remove the key"
    where = key if isinstance(key, Text) and node.kind == "null" else node.span
    diagnostics.add("wrong-kind", where, f'"{key}" must be {expected}, not {node.kind}', remedy)


_KINDS: Final[dict[tuple[str, ...], dict[str, object]]] = {
    ("text",): {"type": "string", "pattern": r"\S"},
    ("a boolean",): {"type": "boolean"},
    ("an integer",): {"type": "integer"},
    (): {"type": ["string", "number", "boolean", "null"]},
}
_PATTERNS: Final = {
    "id": r"^[a-z][a-z0-9_]*(\.[a-z][a-z0-9_]*)+$",
    "package": r"^[^\W\d]\w*(\.[^\W\d]\w*)*$",
    "phase": r"^[a-z][a-z0-9_]*$",
    "around": r"^[a-z][a-z0-9_]*$",
    "ends": r"^[^\W\d_]\w*$",
    "after": r"^[^\W\d_]\w*$",
}
_NAMES: Final = {
    "module": r"^[^\W\d_]\w*$",
    "phase": r"^[a-z][a-z0-9_]*$",
    "context": r"^[^\W\d_][^\W_]*$",
    "field": r"^[^\W\d_]\w*$",
    "event": r"^[^\W\d_]\w*$",
}


def json_schema() -> str:
    """Return the JSON Schema, by which editors complete and check a catalogue."""
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
        return {"enum": [int(choice) if kinds == ("an integer",) else choice for choice in choices]}
    return {**_KINDS[kinds], **({"pattern": _PATTERNS[name]} if name in _PATTERNS else {})}
