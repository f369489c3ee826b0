"""Any printable text is a legal doc: it means in Python and in Markdown what was typed."""

import ast
import html
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from d9d_codegen.diagnostic import is_forbidden, is_invisible, width_of
from d9d_codegen.expression import parse_literal, write_literal
from d9d_codegen.render.docstring import Docstring
from d9d_codegen.render.markdown import cell, code, prose

from .workspace import SMALL, Workspace

PROJECT = Path(__file__).parents[2]
AWKWARD = '\\ " \' ` | * _ # - . : é 中 \u200f \u00a0 \u2028 \U0001f600 \\n \\" <b> &amp; {{ }} {% %} {# #}'
ALPHABET = st.one_of(
    st.sampled_from("\\\"'`|*_#-+=~.:!<>&{}[]()$%ab \n\t"),
    st.sampled_from(['"""', "'''", "\\", " \\", "Returns:\n", "Note", "\n\n", "    ", ". ", "1. ", "word ", "中"]),
    st.characters(exclude_categories=["Cs"]).filter(lambda char: not is_forbidden(char)),
)
DOCS = st.lists(ALPHABET, max_size=60).map("".join).filter(lambda text: text.strip() != "")
LITERALS = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text()
    | st.binary(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.tuples(inner)
        | st.tuples(inner, inner)
        | st.dictionaries(st.text(), inner, max_size=3)
    ),
    max_leaves=6,
)


def words(text: str) -> list[str]:
    """Return the words of a text, whatever its layout."""
    return text.split()


def value_of(docstring: Docstring) -> str:
    """Return the text of a docstring, as Python reads it."""
    value = ast.literal_eval(str(docstring))
    assert isinstance(value, str)
    return value


@given(DOCS, st.sampled_from([0, 4]), st.integers(30, 120))
@example('"', 0, 88)
@example('ends with a quote"', 0, 88)
@example('ends with three quotes"""', 4, 88)
@example('"""begins with three quotes', 4, 88)
@example("ends with a backslash\\", 0, 88)
@example('both \\ and """', 0, 88)
@example(AWKWARD, 4, 88)
def test_a_docstring_reads_back_as_the_text(text: str, indent: int, width: int) -> None:
    """Python reads every docstring as the text that was typed, but for spaces and line breaks."""
    assert words(value_of(Docstring(text, (), indent, width))) == words(text)


@given(DOCS, st.lists(DOCS, min_size=1, max_size=3), st.integers(30, 120))
def test_a_docstring_with_attributes_reads_back_as_the_texts(text: str, meanings: list[str], width: int) -> None:
    """The meanings of fields stand in a section below the text, each whole."""
    attributes = [(f"field_{number}", meaning) for number, meaning in enumerate(meanings)]
    said = [f"field_{number}: {meaning}" for number, meaning in enumerate(meanings)]
    docstring = Docstring(text, attributes, 4, width)
    assert words(value_of(docstring)) == words(" ".join([text, "Attributes:", *said]))


@given(DOCS)
def test_the_source_of_a_docstring_shows_all_that_it_holds(text: str) -> None:
    """No invisible character, no mark that turns the direction of writing, reaches the source."""
    assert not any(map(is_invisible, str(Docstring(text)).replace("\n", "")))


@given(DOCS, st.integers(30, 120))
def test_no_line_of_a_docstring_is_too_long_but_for_long_words(text: str, width: int) -> None:
    """A line is longer than wanted only where it is one word."""
    for line in str(Docstring(text, (), 4, width)).splitlines():
        assert width_of(line) <= width or len(line.split()) == 1


@given(DOCS)
def test_lines_that_fit_stay_as_they_were_typed(text: str) -> None:
    """Short lines keep their ends and their indentation among each other."""
    lines = [f"{word} x" for word in words(text) if word.isalnum() and word.isascii()]
    typed = "\n".join(["First.", "", *lines, *(f"  {line}" for line in lines)]).strip()
    assert value_of(Docstring(typed, (), 0, 10_000)).strip() == typed


# A bullet that was typed looks like the one that a cell has for an item of a list; see the test of its own.
PLAIN = DOCS.filter(lambda text: not any(markup in text for markup in ("`", "](", "\\", "•")))
MARKER = re.compile(r"^ *(?:[-*+]|\d{1,9}[.)]) +(?=\S)", re.MULTILINE)
BARE_MARKER = re.compile(r" *(?:[-*_ ]*|\+|\d{1,9}[.)]) *")  # begins no item; in a cell, the next line follows it


def spoken(text: str) -> list[str]:
    """Return the words of a doc without the markers of its lists."""
    return words(MARKER.sub("", text.strip().expandtabs(4)))


@given(PLAIN)
def test_markdown_shows_the_words_of_the_text(text: str) -> None:
    """Without the escapes of Markdown and HTML, a doc without markup is what was typed, but for line breaks."""
    assume(not any(map(BARE_MARKER.fullmatch, text.expandtabs(4).split("\n"))))
    for shown in (prose(text), cell(text).replace("<br>", "\n").replace("&nbsp;", " ").replace("• ", "- ")):
        plain = re.sub(r"\\([!-/:-@\[-`{-~])", r"\1", shown)
        assert spoken(html.unescape(plain)) == spoken(text)


@pytest.mark.parametrize("marker", ["-", "-\t", "*", "+", "1.", "1)"])
def test_a_marker_without_an_item_is_text(marker: str) -> None:
    """It begins no list, neither on a page nor in a cell, and the line below it follows."""
    escaped = re.sub(r"([-*+.)])", r"\\\1", marker.strip())

    assert prose(f"{marker}\nword") == f"{escaped}\nword"
    assert cell(f"{marker}\nword") == f"{marker.strip()} word"


@pytest.mark.parametrize("text", ['•    "', "• one", "one • two", "- one\n- • two"])
def test_a_bullet_that_was_typed_is_shown(text: str) -> None:
    """It is a character like any other, also at the beginning of a line."""
    typed = text.count("•")

    assert prose(text).count("•") == typed
    assert cell(text).count("•") == typed + text.count("- ")  # a cell shows items of lists with bullets


@given(DOCS)
@example(AWKWARD)
def test_markdown_injects_nothing(text: str) -> None:
    """No doc holds HTML outside code, an image, a heading, a quotation, a rule, a fence, or an indented block."""
    for shown in (prose(text), cell(text).replace("<br>", "").replace("&nbsp;", "")):
        without_code = re.sub(r"(?<![\\`])(`+)(?!`).*?(?<!`)\1(?!`)", "x", shown)
        assert not re.search(r"<|(?<!\\)!\[|&(?!amp;|lt;|gt;|#x)", without_code)
    for line in prose(text).split("\n"):
        assert not re.match(r"#|>|=|~~~|`{3,}[^`]*$|\+|(?:[-*_] *){3,}$| {4}(?! *(?:[-*]|\d+\.| |\S))", line)


@pytest.mark.parametrize(
    ("doc", "page", "in_table"),
    [
        ("See `a|b` and `c<d`.", "See `a|b` and `c<d`.", r"See `a\|b` and `c<d`."),
        ("An *important* and **strong** _word_.", None, None),
        ('See [the guide](../guide/events.md#filters) and [it](https://x.org/?a=1&b=2 "t").', None, None),
        ("Two:\n- one\n- two\n  more\n    - deep", "Two:\n\n- one\n- two\n  more\n  - deep", None),
        ("First:\n1. one\n2) two", "First:\n\n1. one\n2. two", r"First:<br>1\. one<br>2\. two"),
        ("<b>a & b</b> &lt;", "&lt;b&gt;a &amp; b&lt;/b&gt; &amp;lt;", "&lt;b&gt;a &amp; b&lt;/b&gt; &amp;lt;"),
        ("[x](javascript:alert)", r"\[x\](javascript:alert)", r"\[x\](javascript:alert)"),
        ("[x](java&#115;cript:alert)", r"\[x\](java&amp;#115;cript:alert)", None),
        ("![x](y.png)", r"\![x](y.png)", r"\![x](y.png)"),
        ("# a\n> b\n---", "\\# a\n&gt; b\n\\---", "# a &gt; b ---"),
        ("a | b\n|---|", "a \\| b\n\\|---\\|", r"a \| b \|---\|"),
        ("an `open tick", r"an \`open tick", r"an \`open tick"),
        (r"not \*this\* \d", r"not \*this\* \\d", r"not \*this\* \\d"),
    ],
)
def test_inline_code_emphasis_links_and_lists_come_through(doc: str, page: str | None, in_table: str | None) -> None:
    """These are as typed, in paragraphs and in tables; all else is escaped."""
    assert prose(doc) == (doc if page is None else page)
    if in_table is not None:
        assert cell(doc) == in_table


def test_a_list_stays_a_list_in_a_docstring() -> None:
    """The lines of a long item begin below each other."""
    text = "Of one of these:\n\n- first word word word word\n  1. second word word word word"
    assert str(Docstring(text, (), 0, 24)) == (
        '"""Of one of these:\n\n- first word word word\n  word\n  1. second word word\n     word word\n"""'
    )


@given(DOCS)
def test_a_cell_of_a_table_stays_in_its_cell(text: str) -> None:
    """Neither a line break nor a bare `|` gets into a table."""
    for shown in (cell(text), code(text)):
        assert "\n" not in shown
        assert not re.search(r"(?<!\\)(\\\\)*\|", shown.replace("\\|", ""))


@given(LITERALS)
def test_a_literal_reads_back_as_the_value(value: object) -> None:
    """Defaults are written as Python reads them."""
    written = write_literal(value)
    assert ast.literal_eval(written) == value
    if len(written) <= 1000:
        assert parse_literal(written) == value


def test_awkward_docs_please_the_formatter_and_the_linter(empty: Workspace) -> None:
    """Whatever was typed, the modules pass ruff unchanged, and contain it."""
    docs = list(sample(300))
    contexts = "".join(
        f"      Event{number}Context:\n        doc: {json.dumps(doc)}\n        fields:\n"
        f"          field: {{type: int, doc: {json.dumps(docs[-number])}}}\n"
        for number, doc in enumerate(docs)
    )
    events = "".join(
        f"      EVENT_LOOP_{number}: {{id: loop.e{number}, phase: step, context: Event{number}Context,"
        f" doc: {json.dumps(doc)}}}\n"
        for number, doc in enumerate(docs)
    )
    empty.write(
        "version: 1\npackage: awkward.docs\nmodules:\n  loop:\n    doc: Awkward docs.\n    phases:\n"
        f"      step: {{doc: A step.}}\n    contexts:\n{contexts}    events:\n{events}"
    )
    empty.write((PROJECT / "pyproject.toml").read_text(encoding="utf-8"), "pyproject.toml")
    assert empty.run("generate")[0] == 0
    for command in (["format", "--diff"], ["check"]):
        result = subprocess.run(
            [sys.executable, "-m", "ruff", *command, "--no-cache", "awkward"],
            capture_output=True,
            text=True,
            check=False,
        )
        assert result.returncode == 0, result.stdout + result.stderr
    tree = ast.parse(empty.read("awkward/docs/loop.py"))
    below = [
        node.value.value for node in tree.body if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    ]
    assert [words(str(doc)) for doc in below[1:]] == [words(doc) for doc in docs]


def sample(num_docs: int) -> list[str]:
    """Return docs with awkward pieces next to each other in every order, the same on each run."""
    pieces = [
        '"',
        "\\",
        '"""',
        "word",
        "Word.",
        "Returns:",
        "\n",
        "\n\n  ",
        " ",
        "`|`",
        "\u200f",
        "é 中",
        "# x",
        "long " * 30,
        "x" * 130,
    ]
    docs: list[str] = []
    state = 1
    while len(docs) < num_docs:
        chosen = []
        for _ in range(2 + len(docs) % 5):
            state = state * 48271 % 2147483647
            chosen.append(pieces[state % len(pieces)])
        if "".join(chosen).strip():
            docs.append("".join(chosen))
    return docs


@pytest.mark.parametrize("quote", ["'", '"'])
def test_docs_of_an_event_reach_the_module_and_the_page(small: Workspace, quote: str) -> None:
    """A doc full of signs with a meaning elsewhere comes out escaped in both, but for its inline code."""
    doc = f"It's {quote}a | b{quote} `c` \\d"
    small.write(SMALL.replace("Triggered when the door opens.", json.dumps(doc)))
    small.run("generate")
    assert f'r"""{doc}"""' in small.read("shop/events/sale.py")
    assert f"It's {quote}a \\| b{quote} `c` \\\\d" in small.read("docs/events/sale.md")
