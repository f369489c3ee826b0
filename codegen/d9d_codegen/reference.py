"""What the names of a catalogue stand for."""

from d9d_codegen.model import Catalogue, Module


class Scope:
    """The contexts that can be named within one module.

    Args:
        catalogue: The whole catalogue.
        module: The module in question.
    """

    def __init__(self, catalogue: Catalogue, module: Module) -> None:
        self._catalogue = catalogue
        common = [catalogue.common] if catalogue.common else []
        self._bare = {
            str(context.name): f"{catalogue.package}.{owner.name}.{context.name}"
            for owner in (*common, module)
            for context in owner.contexts
        }

    @property
    def names(self) -> list[str]:
        """The bare names of all contexts in scope."""
        return list(self._bare)

    def resolve(self, name: str) -> str | None:
        """Return the full dotted path of a context, or nothing where there is no such context.

        Contexts outside of the catalogue are taken at their word, and an alias for the context that it stands for.
        """
        path = self.path(name)
        if path is None or path in self._catalogue.contexts:
            return self._catalogue.renamed_contexts.get(path or "", path)
        return None if path.rpartition(".")[0] in self._catalogue.module_paths else path

    def path(self, name: str) -> str | None:
        """Return the full dotted path that a name stands for, be there such a context or not; nothing if none does."""
        return name if "." in name else self._bare.get(name)
