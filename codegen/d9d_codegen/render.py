"""From a catalogue to the text of every file that is generated from it."""

from collections.abc import Iterator
from functools import cache
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from d9d_codegen.artefact import Artefact
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
    docs = project.pages_folder(catalogue.package)
    if docs:
        artefacts += _pages(catalogue, docs)
    path = package / "index.json"
    files = sorted(str(artefact.path) for artefact in artefacts if not artefact.gives_way)
    return [*artefacts, Artefact(path, index(catalogue, notice(catalogue), files))]


def _python(catalogue: Catalogue, package: PurePosixPath, width: int) -> Iterator[Artefact]:
    head = notice(catalogue)
    yield Artefact(package / "__init__.py", _fill("package.py.jinja", notice=head), gives_way=True)
    for module in catalogue.modules:
        content = PythonModule(catalogue, module, width)
        yield Artefact(package / f"{module.name}.py", _fill("module.py.jinja", notice=head, module=content))


def _pages(catalogue: Catalogue, docs: PurePosixPath) -> Iterator[Artefact]:
    head = notice(catalogue)
    yield Artefact(docs / "README.md", _fill("pages.md.jinja", notice=head, catalogue=catalogue), gives_way=True)
    used = uses(catalogue)
    for module in catalogue.modules:
        page = Page(catalogue, module, used)
        yield Artefact(docs / f"{module.name}.md", _fill("page.md.jinja", notice=head, page=page))


def _fill(template: str, **values: object) -> str:
    return _environment().get_template(template).render(values)


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
