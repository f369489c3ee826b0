"""Rules about what belongs to one catalogue alone, among those of a project and all that are installed."""

from collections.abc import Iterator

from d9d_codegen.model import Catalogue
from d9d_codegen.problem import Finding


def owned_namespace(catalogue: Catalogue) -> Iterator[Finding]:
    """An id begins with the name of a module of another catalogue."""
    owners = catalogue.surroundings.owners if catalogue.surroundings else {}
    for module in catalogue.modules:
        for event in module.events:
            namespace = event.id.partition(".")[0]
            if namespace in owners and namespace == module.name:
                message = f'the namespace "{namespace}" of {event.name} is owned by {owners[namespace]}'
                yield Finding(event.id, message, "call the module, and with it the beginning of the id, something else")
            elif namespace in owners and namespace not in {str(other.name) for other in catalogue.modules}:
                message = f'the namespace "{namespace}" of {event.name} is owned by {owners[namespace]}'
                yield Finding(event.id, message, f'begin the id with "{module.name}."')


def owned_package(catalogue: Catalogue) -> Iterator[Finding]:
    """A package is that of another catalogue of the project, or holds its modules."""
    for other in catalogue.surroundings.earlier if catalogue.surroundings else ():
        package = catalogue.package
        if package == other.package or package in other.module_paths or other.package in catalogue.module_paths:
            message = f'the package "{package}" is taken: {other.path} has "{other.package}"'
            yield Finding(package, message, "give each catalogue a package of its own")
