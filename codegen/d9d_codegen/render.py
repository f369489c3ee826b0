"""From a catalogue to the text of every file that is generated from it."""

from collections.abc import Iterator
from functools import cache
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from d9d_codegen.artefact import Artefact
from d9d_codegen.digest import sealed, unsealed
from d9d_codegen.index import index
from d9d_codegen.markdown import cell, code, prose
from d9d_codegen.model import Catalogue
from d9d_codegen.page import Page, occurrence, uses
from d9d_codegen.project import Project
from d9d_codegen.python_module import PythonModule, statement_line
from d9d_codegen.status import with_status

if TYPE_CHECKING:
    from jinja2 import Environment


def notice(catalogue: Catalogue) -> str:
    """Returns the sentence in the head of each generated file."""
    source = catalogue.source.path.name
    return f"Generated from {source} by `d9d-catalogue generate`; edit the catalogue, not this file."


def render(catalogue: Catalogue, project: Project) -> list[Artefact]:
    """Returns every artefact of a catalogue without problems."""
    package = project.package_folder(catalogue.package)
    artefacts = list(_python(catalogue, package, project.line_length))
    if project.docs:
        artefacts += _pages(catalogue, project.docs)
    path = package / "index.json"
    files = sorted(str(artefact.path) for artefact in artefacts if not artefact.gives_way)
    return [*artefacts, Artefact(path, sealed(index(catalogue, notice(catalogue), files)))]


def _python(catalogue: Catalogue, package: PurePosixPath, width: int) -> Iterator[Artefact]:
    head = notice(catalogue)
    init = _fill("package.py.jinja", catalogue.package, notice=head)
    yield Artefact(package / "__init__.py", init, gives_way=True)
    for module in catalogue.modules:
        content = PythonModule(catalogue, module, width)
        yield Artefact(package / f"{module.name}.py", _fill("module.py.jinja", module, notice=head, module=content))


def _pages(catalogue: Catalogue, docs: PurePosixPath) -> Iterator[Artefact]:
    head = notice(catalogue)
    overview = [(module.name, module.doc, module.own_events) for module in catalogue.modules]
    pages = _fill("pages.md.jinja", overview, notice=head, catalogue=catalogue)
    yield Artefact(docs / "README.md", pages, gives_way=True)
    used = uses(catalogue)
    for module in catalogue.modules:
        page = Page(catalogue, module, used)
        yield Artefact(docs / f"{module.name}.md", _fill("page.md.jinja", module, notice=head, page=page))


def _fill(template: str, part: object, **values: object) -> str:
    """Returns a file that is about a part of the catalogue."""
    return sealed(_environment().get_template(template).render(values, digests=unsealed(part)))


@cache
def _environment() -> "Environment":
    import jinja2  # noqa: PLC0415 -- a catalogue with problems is refused without it

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("d9d_codegen"),
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
