"""From a catalogue to the text of every file that is generated from it."""

from collections.abc import Iterator
from pathlib import PurePosixPath

from d9d_codegen.artefact import Artefact
from d9d_codegen.digest import sealed, unsealed
from d9d_codegen.index import index
from d9d_codegen.model import Catalogue
from d9d_codegen.page import Page, uses
from d9d_codegen.project import Project
from d9d_codegen.python_module import PythonModule
from d9d_codegen.template import Templates


def notice(catalogue: Catalogue) -> str:
    """Return the sentence in the head of each generated file."""
    source = catalogue.source.path.name
    return f"Generated from {source} by `d9d-catalogue generate`; edit the catalogue, not this file."


def render(catalogue: Catalogue, project: Project) -> list[Artefact]:
    """Return every artefact of a catalogue without problems."""
    package = project.package_folder(catalogue.package)
    templates = Templates(project.templates)
    artefacts = list(_python(catalogue, package, project.line_length, templates))
    docs = project.pages_folder(catalogue.package)
    if docs:
        artefacts += _pages(catalogue, docs, templates)
    path = package / "index.json"
    artefacts += _added(catalogue, package, templates, {path, *(artefact.path for artefact in artefacts)})
    files = sorted(str(artefact.path) for artefact in artefacts if not artefact.gives_way)
    return [*artefacts, Artefact(path, sealed(index(catalogue, notice(catalogue), files)))]


def _python(catalogue: Catalogue, package: PurePosixPath, width: int, templates: Templates) -> Iterator[Artefact]:
    head = notice(catalogue)
    init = _fill(templates, "package.py.jinja", catalogue.package, notice=head)
    yield Artefact(package / "__init__.py", init, gives_way=True)
    for module in catalogue.modules:
        content = PythonModule(catalogue, module, width)
        text = _fill(templates, "module.py.jinja", module, notice=head, module=content)
        yield Artefact(package / f"{module.name}.py", text)


def _pages(catalogue: Catalogue, docs: PurePosixPath, templates: Templates) -> Iterator[Artefact]:
    head = notice(catalogue)
    overview = [(module.name, module.doc, module.own_events) for module in catalogue.modules]
    pages = _fill(templates, "pages.md.jinja", overview, notice=head, catalogue=catalogue)
    yield Artefact(docs / "README.md", pages, gives_way=True)
    used = uses(catalogue)
    for module in catalogue.modules:
        page = Page(catalogue, module, used)
        yield Artefact(docs / f"{module.name}.md", _fill(templates, "page.md.jinja", module, notice=head, page=page))


def _added(
    catalogue: Catalogue, package: PurePosixPath, templates: Templates, taken: set[PurePosixPath]
) -> Iterator[Artefact]:
    """Yield the files that a project's own templates add to the package, called like their templates."""
    for name in templates.added():
        path = package / name.removesuffix(".jinja")
        if path in taken:
            raise templates.refuse(name, f"the template makes {path}, which is made already", "give it another name")
        text = _fill(templates, name, catalogue.modules, notice=notice(catalogue), catalogue=catalogue)
        yield Artefact(path, text)


def _fill(templates: Templates, name: str, part: object, **values: object) -> str:
    """Return a file that is about a part of the catalogue."""
    return sealed(templates.fill(name, digests=unsealed(part), **values))
