"""Whatever is done to a catalogue, the compiler refuses it in words or compiles it into modules that work."""

import ast
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from d9d_codegen.diagnostic import DiagnosticError
from d9d_codegen.lint import lint_file
from d9d_codegen.project import Project
from d9d_codegen.render import render

from .workspace import SMALL, Workspace

KEYS_OF_ORDER = SMALL.replace(
    "      closing: {doc: The shop closes., terminal: true}\n",
    "      counting: {doc: The till is counted., around: serving, any_order: true}\n"
    "      alarm: {doc: It rings., aborts: true}\n"
    "      closing: {doc: The shop closes., terminal: true}\n",
).replace(
    "      EVENT_SALE_CLOSED:\n",
    "      EVENT_SALE_COUNT: {id: sale.count, phase: counting, context: EventDayContext, doc: x}\n"
    "      EVENT_SALE_COUNTED:\n"
    "        id: sale.counted\n"
    "        phase: counting\n"
    "        context: EventStepContext\n"
    "        doc: x\n"
    "        ends: EVENT_SALE_COUNT\n"
    "        after: EVENT_SALE_OPENED\n"
    "        repeats: true\n"
    "      EVENT_SALE_RANG: {id: sale.rang, phase: alarm, context: EventDayContext, doc: x}\n"
    "      EVENT_SALE_CLOSED:\n",
)
CATALOGUES = [SMALL.splitlines(keepends=True), KEYS_OF_ORDER.splitlines(keepends=True)]
PIECES = [
    *"{}[]:,&*!|>'\"%@`#-?\t\n\x00\x85\ufeff\u2028\\",
    "<<: ",
    "---\n",
    "\r\n",
    "!!python/none ",
    "é",
    "\U0001f600",
    "~",
]


@st.composite
def mutations(draw: st.DrawFn) -> str:
    """Return a catalogue in which lines were dropped, doubled, moved or damaged."""
    lines = list(draw(st.sampled_from(CATALOGUES)))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(lines) - 1))
        match draw(st.sampled_from(["drop", "double", "move", "insert", "cut", "indent"])):
            case "drop":
                del lines[at]
            case "double":
                lines.insert(draw(st.integers(0, len(lines))), lines[at])
            case "move":
                lines.insert(draw(st.integers(0, len(lines) - 1)), lines.pop(at))
            case "insert":
                column = draw(st.integers(0, len(lines[at])))
                lines[at] = lines[at][:column] + draw(st.sampled_from(PIECES)) + lines[at][column:]
            case "cut":
                lines[at] = lines[at][: draw(st.integers(0, len(lines[at])))]
            case _:
                lines[at] = "  " + lines[at]
    return "".join(lines)


def compiled(path: Path, text: str) -> dict[str, str]:
    """Return the modules of a catalogue; none where it is refused, with at least one diagnostic."""
    path.write_text(text, encoding="utf-8", newline="")
    try:
        catalogue = lint_file(path)
    except DiagnosticError as error:
        diagnostics = error.diagnostics
    else:
        return {str(output.path): output.text for output in render(catalogue, Project(path.parent, None, 88))}
    assert diagnostics
    assert all(diagnostic.message and diagnostic.remedy for diagnostic in diagnostics)
    return {}


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(mutations())
def test_a_damaged_catalogue_is_refused_or_compiles(empty: Workspace, text: str) -> None:
    """No damage leads to a traceback, nor to a module that Python cannot read."""
    for path, module in compiled(empty.root / "catalogue.yaml", text).items():
        if path.endswith(".py"):
            ast.parse(module)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=200) | st.binary(max_size=200))
def test_any_file_at_all_is_refused_in_words(empty: Workspace, content: str | bytes) -> None:
    """Random text and random bytes are no catalogue, and that is said."""
    path = empty.root / "catalogue.yaml"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(DiagnosticError) as caught:
        lint_file(path)
    assert caught.value.diagnostics


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=30))
def test_any_type_expression_is_refused_or_compiles(empty: Workspace, expression: str) -> None:
    """No text in the place of a type leads to a traceback or to a module that Python cannot read."""
    quoted = "".join(f"\\U{ord(char):08x}" for char in expression)
    text = SMALL.replace("type: int", f'type: "{quoted}"')
    for path, module in compiled(empty.root / "catalogue.yaml", text).items():
        if path.endswith(".py"):
            ast.parse(module)
