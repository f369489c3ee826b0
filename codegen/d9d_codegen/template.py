"""The templates that files are made with: those of the compiler, and those that a project puts in their place."""

import ast
import os
import sys
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path
from traceback import walk_tb
from typing import TYPE_CHECKING, Final

from d9d_codegen.markdown import cell, code, prose
from d9d_codegen.page import occurrence
from d9d_codegen.problem import Problem, RefusedError
from d9d_codegen.python_module import statement_line
from d9d_codegen.source import Span
from d9d_codegen.status import with_status

if TYPE_CHECKING:
    from jinja2 import BaseLoader, BytecodeCache, Environment

_OWN: Final = Path(__file__).parent / "templates"


class Templates:
    """Templates by their names.

    Args:
        folder: Where a project keeps templates of its own; those of the compiler give way to them.

    Raises:
        RefusedError: There is no such folder.
    """

    def __init__(self, folder: Path | None) -> None:
        if folder is not None and not os.path.isdir(folder):  # noqa: PTH112 -- a name may be too long
            message = "there is no such folder of templates"
            raise RefusedError([Problem(folder, "bad-template", message, "name one with --templates DIR")])
        self._folder = folder
        self._environment = _environment()
        if folder is not None:
            self._environment = self._environment.overlay(loader=_loader(folder), bytecode_cache=None)

    def fill(self, template: str, **values: object) -> str:
        """Return the text that a template makes.

        Raises:
            RefusedError: A template of the project fails, names what there is not, or makes Python that does not parse.
        """
        try:
            text = self._environment.get_template(template).render(values)
        except Exception as error:
            problem = self._problem(error, template)
            if problem is None:
                raise
            raise RefusedError([problem]) from None
        self._read_back(template, text)
        return text

    def added(self) -> Iterator[str]:
        """Yield the project's templates that replace none of the compiler's; those that begin with `_` are parts."""
        own = {path.name for path in _OWN.iterdir()}
        for path in sorted(self._folder.glob("*.jinja")) if self._folder else ():
            if path.name not in own and not path.name.startswith("_") and path.is_file():
                yield path.name

    def refuse(self, template: str, message: str, remedy: str) -> RefusedError:
        """Return the error that a template of the project makes what it must not."""
        return RefusedError([Problem((self._folder or Path()) / template, "bad-template", message, remedy)])

    def _problem(self, error: Exception, template: str) -> Problem | None:
        """Return an error as a problem, if it is one of a template of the project."""
        message = f"the template fails: {type(error).__name__}: {error}"
        places = [(frame.f_code.co_filename, line) for frame, line in walk_tb(error.__traceback__)]
        places.append((getattr(error, "filename", None) or "", getattr(error, "lineno", None) or 1))
        for name, number in reversed(places):
            if self._folder is not None and Path(name).parent == self._folder:
                lines = Path(name).read_text(encoding="utf-8", errors="replace").splitlines()
                line = lines[number - 1] if number <= len(lines) else ""
                column = len(line) - len(line.lstrip()) + 1
                span = Span(number, column, max(1, len(line.strip())))
                return Problem(Path(name), "bad-template", message, "mend the template", span, line)
        if self._folder is not None and (self._folder / template).exists():  # it cannot even be read
            return Problem(self._folder / template, "bad-template", message, "mend the template")
        return None

    def _read_back(self, template: str, text: str) -> None:
        if self._folder is None or not template.endswith(".py.jinja") or not (self._folder / template).exists():
            return
        try:
            ast.parse(text)
        except SyntaxError as error:
            message = f"the template makes what is no Python: {error.msg} in line {error.lineno}"
            raise self.refuse(template, message, f"that line is {(error.text or '').strip()!r}") from None


def _loader(folder: Path) -> "BaseLoader":
    import jinja2  # noqa: PLC0415 -- see below

    return jinja2.ChoiceLoader([jinja2.FileSystemLoader(os.fspath(folder)), jinja2.PackageLoader("d9d_codegen")])


def _bytecode_cache() -> "BytecodeCache | None":
    """Return where compiled templates are kept, as Python keeps compiled modules: compiling takes long.

    Their names hold digests of their sources and the versions of Python and Jinja.
    """
    import jinja2  # noqa: PLC0415 -- see below

    folder = _OWN / "__pycache__"
    if not sys.dont_write_bytecode:
        with suppress(OSError):
            folder.mkdir(exist_ok=True)
    return jinja2.FileSystemBytecodeCache(os.fspath(folder)) if os.access(folder, os.W_OK) else None


@cache
def _environment() -> "Environment":
    import jinja2  # noqa: PLC0415 -- a catalogue with problems is refused without it

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("d9d_codegen"),
        bytecode_cache=_bytecode_cache(),
        undefined=jinja2.StrictUndefined,
        autoescape=False,  # noqa: S701 -- nothing here is HTML
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {
        "cell": cell,
        "code": code,
        "occurrence": occurrence,
        "prose": prose,
        "statement_line": statement_line,
        "with_status": with_status,
    }
    return environment
