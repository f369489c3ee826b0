"""From a valid catalogue to the text of every generated file, by the compiler's templates or those of a project.

Templates of a project may come from a checkout that nobody has read, and run in a sandbox: they reach the names in
docs/catalogue/templates.md, and nothing else.
"""

import ast
import os
import sys
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path, PurePosixPath
from traceback import walk_tb
from typing import TYPE_CHECKING, Any, Final

from d9d_codegen.catalogue import (
    Catalogue,
    Context,
    Deprecation,
    EventSpec,
    Field,
    Module,
    Phase,
    Status,
    with_status,
)
from d9d_codegen.diagnostic import Diagnostic, DiagnosticError, Span
from d9d_codegen.files import Output, sealed, unsealed
from d9d_codegen.project import Project
from d9d_codegen.render.docstring import Docstring
from d9d_codegen.render.index import index_text
from d9d_codegen.render.markdown import cell, code, prose
from d9d_codegen.render.page import Page, occurrence, uses
from d9d_codegen.render.python_module import (
    ContextClass,
    EventConstant,
    FieldAlias,
    Import,
    NameAlias,
    PythonModule,
    statement_line,
)

if TYPE_CHECKING:
    from jinja2 import BytecodeCache, Environment

_OWN: Final = Path(__file__).parents[1] / "templates"
_FILTERS: Final[dict[str, Any]] = {
    "cell": cell,
    "code": code,
    "occurrence": occurrence,
    "prose": prose,
    "statement_line": statement_line,
    "with_status": with_status,
}
_OPTIONS: Final[dict[str, Any]] = {"trim_blocks": True, "lstrip_blocks": True, "keep_trailing_newline": True}
# What templates of a project may read of each object, as in docs/catalogue/templates.md.
ATTRIBUTES: Final[dict[type, str]] = {
    Catalogue: "package modules common",
    Module: "name doc phases contexts events entries own_contexts own_events",
    Phase: "name doc repeats optional anytime terminal around any_order aborts",
    Context: "name doc fields own_fields status",
    Field: "name type doc default device status",
    EventSpec: "name id phase context doc repeats optional ends after status",
    Status: "since stability deprecated replaced_by",
    Deprecation: "since replaced_by note",
    PythonModule: "docstring contexts events aliases import_sections public_names lint_codes spelled",
    ContextClass: "name docstring fields aliases",
    EventConstant: "name type spell id context_name in_step docstring skip",
    FieldAlias: "name target type message docstring skip",
    NameAlias: "name target message docstring skip",
    Import: "module names",
    Docstring: "",
    Page: "module path phases context_link diagram before after occurs event_link events_with deprecated_names type",
}
_PLAIN: Final = (str, int, float, list, tuple, dict, set, frozenset, type(None))


class Templates:
    """Templates by their names.

    Args:
        folder: The folder of the project's own templates, which replace the compiler's.

    Raises:
        DiagnosticError: There is no such folder.
    """

    def __init__(self, folder: Path | None) -> None:
        if folder is not None and not os.path.isdir(folder):  # noqa: PTH112 -- Path raises where a name is too long
            message = "there is no such folder of templates"
            raise DiagnosticError(
                [Diagnostic(folder, "bad-template", message, "correct --templates, or templates in [tool.d9d]")]
            )
        self._folder = folder
        self._environment = _trusted_environment() if folder is None else _sandbox(folder)

    def fill(self, template: str, **values: object) -> str:
        """Return the text that a template renders.

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

    def refused(self, template: str, message: str, remedy: str) -> DiagnosticError:
        """Return the error that a template of the project renders what it must not."""
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
                return Diagnostic(Path(name), "bad-template", message, "correct the template", span, line)
        if self._folder is not None and os.path.lexists(self._folder / template):  # it cannot even be read
            return Diagnostic(self._folder / template, "bad-template", message, "correct the template")
        return None

    def _read_back(self, template: str, text: str) -> None:
        if self._folder is None or not template.endswith(".py.jinja") or not (self._folder / template).exists():
            return
        try:
            ast.parse(text)
        except SyntaxError as error:
            message = f"the template renders invalid Python: {error.msg} in line {error.lineno}"
            raise self.refused(template, message, f"that line is {(error.text or '').strip()!r}") from None


@cache
def _trusted_environment() -> "Environment":
    """Return the environment of the compiler's own templates."""
    import jinja2  # noqa: PLC0415 -- not needed for a catalogue that is not valid

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("d9d_codegen"),
        bytecode_cache=_bytecode_cache(),
        undefined=jinja2.StrictUndefined,
        autoescape=False,  # noqa: S701 -- nothing here is HTML
        **_OPTIONS,
    )
    environment.filters |= _FILTERS
    return environment


def _bytecode_cache() -> "BytecodeCache | None":
    """Return the cache of compiled templates, next to them, as Python caches compiled modules: compiling is slow.

    The names of its files contain digests of the sources, and the versions of Python and Jinja.
    """
    import jinja2  # noqa: PLC0415 -- see above

    folder = _OWN / "__pycache__"
    if not sys.dont_write_bytecode:
        with suppress(OSError):
            folder.mkdir(exist_ok=True)
    return jinja2.FileSystemBytecodeCache(os.fspath(folder)) if os.access(folder, os.W_OK) else None


def _sandbox(folder: Path) -> "Environment":
    """Return an environment for templates that are not trusted.

    Jinja's sandbox refuses private attributes and changes of lists and dictionaries. This one has no global names, and
    of each object only the attributes in `ATTRIBUTES`: a catalogue, for one, leads to paths that can be written.
    """
    import jinja2  # noqa: PLC0415 -- see above
    from jinja2.runtime import BlockReference, LoopContext, Macro  # noqa: PLC0415 -- see above
    from jinja2.sandbox import ImmutableSandboxedEnvironment  # noqa: PLC0415 -- see above

    class Sandbox(ImmutableSandboxedEnvironment):
        def is_safe_attribute(self, obj: object, attr: str, value: object) -> bool:
            if type(obj) in ATTRIBUTES:
                return attr in ATTRIBUTES[type(obj)].split()
            is_plain = isinstance(obj, (*_PLAIN, BlockReference, LoopContext, Macro, jinja2.environment.TemplateModule))
            return is_plain and super().is_safe_attribute(obj, attr, value)

    class Loader(jinja2.FileSystemLoader):
        def get_source(self, environment: "Environment", template: str) -> Any:
            path = os.path.realpath(folder / template)
            if not Path(path).is_relative_to(os.path.realpath(folder)):
                raise jinja2.exceptions.SecurityError(f"{template} is outside the folder of templates")
            return super().get_source(environment, template)

    environment = Sandbox(
        loader=jinja2.ChoiceLoader([Loader(os.fspath(folder)), jinja2.PackageLoader("d9d_codegen")]),
        undefined=jinja2.StrictUndefined,
        autoescape=False,
        **_OPTIONS,
    )
    environment.globals.clear()
    environment.filters |= _FILTERS
    return environment


def notice(catalogue: Catalogue) -> str:
    """Return the sentence in the head of each generated file."""
    source = catalogue.source.path.name
    return f"Generated from {source} by `d9d-catalogue generate`; edit the catalogue, not this file."


def render(catalogue: Catalogue, project: Project) -> list[Output]:
    """Return every output of a valid catalogue."""
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
    """Yield the files that a project's own templates add to the package, named like the templates."""
    for name in templates.added():
        path = package / name.removesuffix(".jinja")
        if path in taken:
            raise templates.refused(name, f"the template renders {path}, which another one renders", "rename it")
        text = _fill(templates, name, catalogue.modules, notice=notice(catalogue), catalogue=catalogue)
        yield Output(path, text)


def _fill(templates: Templates, name: str, part: object, **values: object) -> str:
    """Return a file that is about a part of the catalogue, with its digests."""
    return sealed(templates.fill(name, digests=unsealed(part), **values))
