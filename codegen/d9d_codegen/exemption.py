"""Exemptions: `allow: [rule]` on an entry, by which a rule finds nothing in it."""

from bisect import bisect_right
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from d9d_codegen.node import Mapping, Node, Scalar, Sequence
from d9d_codegen.problem import Finding
from d9d_codegen.shape import Listed, Named, Shape
from d9d_codegen.source import Span, Text
from d9d_codegen.spelling import suggestion

# The rules that are about taste, tidiness and promises. Without any other one the generated code would not work, a run
# would have no order, or two catalogues would claim one name.
EXEMPTIBLE: Final = frozenset({"empty-phase", "half-pair", "less-stable", "name-style", "unused-context"})


@dataclass(frozen=True, slots=True)
class Exemption:
    """One rule that finds nothing in one entry.

    Attributes:
        rule: The name of the rule.
        owner: The name of the entry.
        start: The line and the column where the entry begins, counted from 1.
        end: Where it ends, exclusively.
    """

    rule: Text
    owner: Text
    start: tuple[int, int]
    end: tuple[int, int]

    def covers(self, place: Span) -> bool:
        """Return whether a place is within the entry."""
        return self.start <= (place.line, place.column) < self.end


class _Nest:
    """The exemptions from one rule; of two entries one lies within the other, or they share no place."""

    def __init__(self, exemptions: Iterable[Exemption]) -> None:
        by_start = {exemption.start: exemption for exemption in reversed([*exemptions])}
        self._starts = sorted(by_start)
        self._around: dict[tuple[int, int], Exemption | None] = {}
        self._by_start = by_start
        around: list[Exemption] = []
        for start in self._starts:
            while around and around[-1].end <= start:
                around.pop()
            self._around[start] = around[-1] if around else None
            around.append(by_start[start])

    def innermost(self, place: Span) -> Exemption | None:
        """Return the exemption of the smallest entry around a place, if there is one."""
        at = bisect_right(self._starts, (place.line, place.column))
        exemption = self._by_start[self._starts[at - 1]] if at else None
        while exemption and not exemption.covers(place):
            exemption = self._around[exemption.start]
        return exemption


class Exemptions:
    """The exemptions of one catalogue.

    Args:
        exemptions: As declared.
        rules: The names of all rules.
    """

    def __init__(self, exemptions: Collection[Exemption], rules: Collection[str]) -> None:
        self._exemptions = exemptions
        self._rules = rules
        self._used: set[Span] = set()
        self._nests = {rule: _Nest(each for each in exemptions if each.rule == rule) for rule in EXEMPTIBLE}

    def excuse(self, rule: str, at: Text | Span) -> bool:
        """Return whether a rule may find something at a place; the innermost entry that allows it is the one used."""
        if rule not in EXEMPTIBLE:
            return False
        place = at.span if isinstance(at, Text) else at
        innermost = self._nests[rule].innermost(place)
        if innermost is None:
            return False
        self._used.add(innermost.rule.span)
        return True

    def bad(self) -> Iterator[Finding]:
        """Yield the exemptions from what is no rule, and from rules without which nothing would work."""
        for exemption in self._exemptions:
            if exemption.rule in EXEMPTIBLE:
                continue
            message = f'{exemption.owner} is exempted from "{exemption.rule}", which is no rule'
            remedy = suggestion(exemption.rule, EXEMPTIBLE, f"name one of {', '.join(sorted(EXEMPTIBLE))}")
            if exemption.rule in self._rules:
                message = f'nothing can be exempted from "{exemption.rule}": what is generated rests on it'
                remedy = "take it out, and mend what the rule finds"
            yield Finding(exemption.rule, message, remedy)

    def unused(self) -> Iterator[Finding]:
        """Yield the exemptions from rules that find nothing in the entry anyway; to be asked last."""
        for exemption in self._exemptions:
            if exemption.rule in EXEMPTIBLE and exemption.rule.span not in self._used:
                message = f'{exemption.owner} is exempted from "{exemption.rule}", which finds nothing in it'
                yield Finding(exemption.rule, message, "take the exemption out")


def exemptions_in(node: Node, shape: Shape, name: Text | None = None) -> Iterator[Exemption]:
    """Yield the exemptions in a tree, as far as it has the right shape.

    Args:
        node: An entry.
        shape: What it should look like.
        name: The key that holds it; the catalogue itself has none.
    """
    if not isinstance(node, Mapping):
        return
    for key, child in node.entries.items():
        expected = shape.keys[key].value if key in shape.keys else None
        if isinstance(expected, Listed) and isinstance(child, Sequence) and name is not None:
            for item in child.items:
                if isinstance(item, Scalar) and item.kind == "text" and item.text:
                    yield Exemption(item.text, name, name.span[:2], node.end)
        elif isinstance(expected, Named) and isinstance(child, Mapping):
            for inner, entry in child.entries.items():
                yield from exemptions_in(entry, expected.shape, inner)
