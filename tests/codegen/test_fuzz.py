"""Bad input: no traceback, at most 200 MB and 5 s, no file written. Good input: the modules have the declared docs.

The compiler runs in a separate process, whose time and peak memory are measured for every input.
"""

import base64
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from .test_mutations import mutations
from .test_texts import DOCS
from .workspace import SMALL

MAX_SECONDS = 5.0
MAX_MEGABYTES = 200.0
PROGRAM = Path(__file__).with_name("compiler_process.py")


@dataclass(frozen=True)
class Compiler:
    """The compiler's process."""

    process: "subprocess.Popen[str]"

    def compile(self, catalogue: bytes, *, imports: bool = False) -> dict[str, Any]:
        """Send one catalogue; return what came of it, after the limits that hold for every one."""
        assert self.process.stdin
        assert self.process.stdout
        request = {"catalogue": base64.b64encode(catalogue).decode(), "imports": imports}
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        reply: dict[str, Any] = json.loads(self.process.stdout.readline())
        assert reply["error"] == ""
        assert reply["seconds"] < MAX_SECONDS
        assert reply["peak_megabytes"] < MAX_MEGABYTES
        if reply["status"] != 0:
            assert reply["status"] == 1
            assert reply["diagnostics"] > 0
            assert reply["files"] == ["catalogue.yaml"]
        return reply


@pytest.fixture(scope="module", name="compiler")
def _compiler(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Compiler]:
    folder = tmp_path_factory.mktemp("fuzz")
    environment = {"PYTHONPATH": ":".join(path for path in sys.path if path), "PYTHONHASHSEED": "0"}
    with subprocess.Popen(
        [sys.executable, str(PROGRAM)],
        cwd=folder,
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        yield Compiler(process)
        assert process.stdin
        process.stdin.close()


def escaped(text: str) -> str:
    """Return a text as a YAML scalar in which no character means anything."""
    return '"' + "".join(f"\\U{ord(char):08x}" for char in text) + '"'


KEYS = ["version", "package", "modules", "common", "doc", "contexts", "fields", "type", "default", "events", "phases"]
KEYS += ["id", "phase", "context", "deprecated", "since", "replaced_by", "allow", "repeats", "EventX", "EVENT_X", ""]
KEYS += ["around", "any_order", "aborts", "terminal", "anytime", "ends", "after", "device"]
VALUES = st.none() | st.booleans() | st.integers() | st.floats() | st.sampled_from(KEYS) | DOCS
TREES = st.recursive(
    VALUES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=6),
    max_leaves=20,
)
WRAPPERS = [
    "%s",
    "\ufeff%s",
    "--- !!map\n%s",
    "%s\x00",
    "\u202e%s",
    "&a %s",
    "%%TAG ! tag:x,1:\n---\n%s",
    "%s\n...\n%s",
]
ENCODINGS = ["utf-8", "utf-8-sig", "utf-16", "utf-32", "latin-1"]


@st.composite
def bad_bytes(draw: st.DrawFn) -> bytes:
    """Return a damaged catalogue, random YAML or random text, wrapped, with any line ends, in any encoding."""
    text = draw(mutations() | TREES.map(lambda tree: str(yaml.safe_dump(tree, allow_unicode=True))) | DOCS)
    text = draw(st.sampled_from(WRAPPERS)).replace("%s", text)
    text = text.replace("\n", draw(st.sampled_from(["\n", "\n", "\r\n", "\r", "\u2028"])))
    return text.encode(draw(st.sampled_from(ENCODINGS)), errors="replace")


TYPES = ["int", "str | None", "list[int]", "decimal.Decimal", "typing.Any", "collections.abc.Callable[[int], None]"]
STATUSES = ["", ", stability: stable", ', since: "0.2", stability: experimental', ', deprecated: {since: "1"}']


@st.composite
def good_catalogues(draw: st.DrawFn) -> str:
    """Return a catalogue that is valid whatever its docs are: contexts, events, and old names of them."""

    def doc() -> str:
        return escaped(draw(DOCS))

    def renamed(name: str) -> str:
        return f'{{since: "0.3", replaced_by: {name}, note: {doc()}}}'

    kind, live = draw(st.sampled_from(TYPES)), draw(st.sampled_from(STATUSES[:-1]))
    status = draw(st.sampled_from(STATUSES))
    return f"""\
version: 1
package: fuzzed.events
modules:
  common:
    doc: {doc()}
    contexts:
      EventNewContext:
        doc: {doc()}
        fields:
          new: {{type: "{kind}", doc: {doc()}{live}}}
          same: {{type: "list[EventNewContext]", doc: {doc()}, default: "[]"}}
          old: {{type: "{kind}", doc: {doc()}, deprecated: {renamed("new")}}}
      EventOldContext: {{doc: {doc()}, deprecated: {renamed("EventNewContext")}}}
  loop:
    doc: {doc()}
    phases:
      step: {{doc: {doc()}, repeats: true}}
    contexts:
      EventBareContext: {{doc: {doc()}{status}}}
    events:
      EVENT_LOOP_PRE: {{id: loop.step.pre, phase: step, context: EventNewContext, doc: {doc()}}}
      EVENT_LOOP_OLD:
        {{id: loop.old, phase: step, context: EventOldContext, doc: {doc()}, deprecated: {renamed("EVENT_LOOP_PRE")}}}
      EVENT_LOOP_POST: {{id: loop.step.post, phase: step, context: EventNewContext, doc: {doc()}}}
      EVENT_LOOP_BARE: {{id: loop.bare, phase: step, context: EventBareContext, doc: {doc()}}}
"""


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(bad_bytes())
def test_no_input_gets_more_than_a_refusal_in_words(compiler: Compiler, content: bytes) -> None:
    """Whatever is in the file, it is refused in words with no file written, or compiles."""
    compiler.compile(content)


@settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
@given(good_catalogues())
def test_modules_carry_exactly_the_declared_docs(compiler: Compiler, catalogue: str) -> None:
    """Modules of a good catalogue import, and each doc in them reads as declared, old names included."""
    assert compiler.compile(catalogue.encode(), imports=True)["status"] == 0


_EVENTS = "".join(
    f"      EVENT_SALE_{number}: {{id: sale.e{number}, phase: opening, context: EventDyaContext, doc: x}}\n"
    for number in range(400)
)
_CONTEXTS = "".join(f"      Event{number}Context: {{doc: x}}\n" for number in range(400))


@pytest.mark.parametrize(
    "text",
    [
        "".join(
            f"{name}: &{name} [{', '.join([f'*{before}'] * 9)}]\n"
            for before, name in zip("abcdefgh", "bcdefghi", strict=True)
        ),
        "[" * 200_000,
        "{a: " * 200_000,
        "- " * 200_000,
        "a: " + "x" * 2_000_000,
        "a" * 1_000_000 + ": 1",
        "".join(f"k{number}: 1\n" for number in range(20_000)),
        SMALL.replace("Triggered when the door opens.", "word " * 200_000),
        SMALL.replace("Triggered when the door opens.", "w" * 1_000_000),
        SMALL.replace("type: int", "type: '" + "list[" * 200 + "int" + "]" * 200 + "'"),
        SMALL.replace("    events:\n", "    events:\n" + _EVENTS),
        SMALL.replace("    events:\n", _CONTEXTS + "    events:\n" + _EVENTS),
        SMALL.replace("doc: Events of a sale.", "doc: x\n    allow: [" + "name-style, " * 5_000 + "]"),
    ],
    ids=range(13),
)
def test_a_bomb_costs_no_more_than_any_other_input(compiler: Compiler, text: str) -> None:
    """Endless nesting, aliases of aliases, and masses of text, keys and errors stay within the limits."""
    compiler.compile(text.encode())
