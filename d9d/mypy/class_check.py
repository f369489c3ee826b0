"""What a check of a class definition is given."""

import dataclasses

from mypy.nodes import Context, TypeInfo
from mypy.semanal import SemanticAnalyzer

from d9d.mypy.errors import Mistake
from d9d.mypy.index import Indexes


@dataclasses.dataclass(frozen=True)
class ClassCheck:
    """A class whose names are bound, all bodies of its methods included, and whose types are not yet inferred.

    Attributes:
        info: The class.
        api: The analyzer that has bound its module; it knows all modules.
        indexes: The indexes of all catalogues.
    """

    info: TypeInfo
    api: SemanticAnalyzer
    indexes: Indexes

    def fail(self, mistake: Mistake, where: Context) -> None:
        """Report a mistake at a line of the class's own module."""
        self.api.fail(mistake.message, where, code=mistake.code)

    def extends(self, full_name: str) -> bool:
        """Say whether the class is, or derives from, the one of a full name."""
        return any(base.fullname == full_name for base in self.info.mro)
