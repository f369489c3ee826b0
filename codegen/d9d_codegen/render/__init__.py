"""Outputs."""

import ast
import os
import sys
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path, PurePosixPath
from traceback import walk_tb
from typing import TYPE_CHECKING, Final

from d9d_codegen.catalogue import Catalogue, with_status
from d9d_codegen.diagnostic import Diagnostic, DiagnosticError, Span
from d9d_codegen.files import Output, sealed, unsealed
from d9d_codegen.project import Project
from d9d_codegen.render.index import index_text
from d9d_codegen.render.page import Page, cell, code, occurrence, prose, uses
from d9d_codegen.render.python_module import PythonModule, statement_line

if TYPE_CHECKING:
    from jinja2 import BaseLoader, BytecodeCache, Environment

_OWN: Final = Path(__file__).parents[1] / "templates"


class Templates:
    """Templates by their names.

    Args:
        folder: Where a project keeps templates of its own; those of the compiler give way to them.

    Raises:
        DiagnosticError: There is no such folder.
    """

    def __init__(self, folder: Path | None) -> None:
        if folder is not None and not os.path.isdir(folder):  # noqa: PTH112 -- a name may be too long
            message = "there is no such folder of templates"
            raise DiagnosticError([Diagnostic(folder, "bad-template", message, "name one with --templates DIR")])
        self._folder = folder
        self._environment = _environment()
        if folder is not None:
            self._environment = self._environment.overlay(loader=_loader(folder), bytecode_cache=None)

    def fill(self, template: str, **values: object) -> str:
        """Return the text that a template makes.

        Raises:
            DiagnosticError: A project template fails, or renders Python that does not parse.
        """
        try:
            text = self._environment.get_template(template).render(values)
        except Exception as error:
            diagnostic = self._diagnostic(error, template)
            if diagnostic is None:
                raise
            raise DiagnosticError([diagnostic]) from None
        self._read_back(template, text)
        return text

    def added(self) -> Iterator[str]:
        """Yield the project's templates that replace none of the compiler's; those that begin with `_` are parts."""
        own = {path.name for path in _OWN.iterdir()}
        for path in sorted(self._folder.glob("*.jinja")) if self._folder else ():
            if path.name not in own and not path.name.startswith("_") and path.is_file():
                yield path.name

    def refuse(self, template: str, message: str, remedy: str) -> DiagnosticError:
        """Return the error that a template of the project makes what it must not."""
        return DiagnosticError([Diagnostic((self._folder or Path()) / template, "bad-template", message, remedy)])

    def _diagnostic(self, error: Exception, template: str) -> Diagnostic | None:
        """Return an error as a diagnostic, if it is one of a template of the project."""
        message = f"the template fails: {type(error).__name__}: {error}"
        places = [(frame.f_code.co_filename, line) for frame, line in walk_tb(error.__traceback__)]
        places.append((getattr(error, "filename", None) or "", getattr(error, "lineno", None) or 1))
        for name, number in reversed(places):
            if self._folder is not None and Path(name).parent == self._folder:
                lines = Path(name).read_text(encoding="utf-8", errors="replace").splitlines()
                line = lines[number - 1] if number <= len(lines) else ""
                column = len(line) - len(line.lstrip()) + 1
                span = Span(number, column, max(1, len(line.strip())))
                return Diagnostic(Path(name), "bad-template", message, "mend the template", span, line)
        if self._folder is not None and (self._folder / template).exists():  # it cannot even be read
            return Diagnostic(self._folder / template, "bad-template", message, "mend the template")
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
    import jinja2  # noqa: PLC0415 -- a catalogue with diagnostics is refused without it

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


def notice(catalogue: Catalogue) -> str:
    """Return the sentence in the head of each generated file."""
    source = catalogue.source.path.name
    return f"Generated from {source} by `d9d-catalogue generate`; edit the catalogue, not this file."


def render(catalogue: Catalogue, project: Project) -> list[Output]:
    """Return every output of a catalogue without diagnostics."""
    package = project.package_folder(catalogue.package)
    templates = Templates(project.templates)
    outputs = list(_python(catalogue, package, project.line_length, templates))
    docs = project.pages_folder(catalogue.package)
    if docs:
        outputs += _pages(catalogue, docs, templates)
    path = package / "index.json"
    outputs += _added(catalogue, package, templates, {path, *(output.path for output in outputs)})
    files = sorted(str(output.path) for output in outputs if not output.keeps_existing)
    return [*outputs, Output(path, sealed(index_text(catalogue, notice(catalogue), files)))]


def _python(catalogue: Catalogue, package: PurePosixPath, width: int, templates: Templates) -> Iterator[Output]:
    head = notice(catalogue)
    init = _fill(templates, "package.py.jinja", catalogue.package, notice=head)
    yield Output(package / "__init__.py", init, keeps_existing=True)
    for module in catalogue.modules:
        content = PythonModule(catalogue, module, width)
        text = _fill(templates, "module.py.jinja", module, notice=head, module=content)
        yield Output(package / f"{module.name}.py", text)


def _pages(catalogue: Catalogue, docs: PurePosixPath, templates: Templates) -> Iterator[Output]:
    head = notice(catalogue)
    overview = [(module.name, module.doc, module.own_events) for module in catalogue.modules]
    pages = _fill(templates, "pages.md.jinja", overview, notice=head, catalogue=catalogue)
    yield Output(docs / "README.md", pages, keeps_existing=True)
    used = uses(catalogue)
    for module in catalogue.modules:
        page = Page(catalogue, module, used)
        yield Output(docs / f"{module.name}.md", _fill(templates, "page.md.jinja", module, notice=head, page=page))


def _added(
    catalogue: Catalogue, package: PurePosixPath, templates: Templates, taken: set[PurePosixPath]
) -> Iterator[Output]:
    """Yield the files that a project's own templates add to the package, called like their templates."""
    for name in templates.added():
        path = package / name.removesuffix(".jinja")
        if path in taken:
            raise templates.refuse(name, f"the template makes {path}, which is made already", "give it another name")
        text = _fill(templates, name, catalogue.modules, notice=notice(catalogue), catalogue=catalogue)
        yield Output(path, text)


def _fill(templates: Templates, name: str, part: object, **values: object) -> str:
    """Return a file that is about a part of the catalogue."""
    return sealed(templates.fill(name, digests=unsealed(part), **values))
