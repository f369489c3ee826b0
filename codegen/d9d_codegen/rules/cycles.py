"""The rule about modules that need each other."""

from collections.abc import Iterator

from d9d_codegen import annotation
from d9d_codegen.model import Catalogue, Module
from d9d_codegen.problem import Finding
from d9d_codegen.reference import Scope
from d9d_codegen.source import Text


def import_cycle(catalogue: Catalogue) -> Iterator[Finding]:
    """Two modules name contexts of each other, directly or through others, so that neither can be imported first."""
    uses = {str(module.name): _uses(catalogue, module) for module in catalogue.modules}
    for module, used in uses.items():
        for other, place in used.items():
            if other != module and _reaches(other, module, uses):
                message = f"{module} names a context of {other}, which needs {module} itself"
                yield Finding(place, message, "move the context that both need to common")


def _uses(catalogue: Catalogue, module: Module) -> dict[str, Text]:
    """Return the modules whose contexts a module names, each with the first place where it does."""
    scope = Scope(catalogue, module)
    named = [(str(event.context), event.context) for event in module.events]
    for context in module.contexts:
        for field in context.fields:
            named += [(name.path, field.type) for name in annotation.names_in(field.type)]
    used: dict[str, Text] = {}
    for name, place in named:
        path = scope.resolve(name)
        if path in catalogue.contexts:
            used.setdefault(path.split(".")[-2], place)
    return used


def _reaches(start: str, goal: str, uses: dict[str, dict[str, Text]]) -> bool:
    seen, waiting = {start}, [start]
    while waiting:
        for other in uses.get(waiting.pop(), {}):
            if other == goal:
                return True
            if other not in seen:
                seen.add(other)
                waiting.append(other)
    return False
