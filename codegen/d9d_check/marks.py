"""What marks say of functions of d9d: those of its own, which `marked` lists."""

from d9d_check.framework import canonical
from d9d_check.marked import MARKED
from d9d_check.values import Attribute, Instance, Typed, Value

NOTHING_MARKED: frozenset[str] = frozenset()


def marks_of(name: str) -> frozenset[str]:
    """Return the marks of a function of d9d, or of a method of a class of d9d, by its full name."""
    if not name.startswith("d9d."):
        return NOTHING_MARKED
    return MARKED.get(".".join(name.split(".")[-2:]), NOTHING_MARKED)


def marks_of_method(owner: Value, name: str) -> frozenset[str]:
    """Return the marks of a method of an object of d9d, of a part of it, or of a class derived from one of d9d."""
    root = owner.owner if isinstance(owner, Attribute) else owner
    kinds: frozenset[str] = frozenset()
    if isinstance(root, Typed) and root.name.startswith("d9d."):
        kinds = frozenset({canonical(root.name)})
    elif isinstance(root, Instance):
        kinds = root.definition.outside
    return NOTHING_MARKED.union(*(MARKED.get(f"{kind}.{name}", NOTHING_MARKED) for kind in kinds))
