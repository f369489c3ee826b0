"""Who has state beside the parts of a loop: what its user has given to it, and who listens to it."""

import collections
import itertools
from collections.abc import Iterable, Mapping
from typing import Any, TypeGuard

from torch import nn

from d9d.core.protocol import Stateful
from d9d.loop.component.ranks import Ranks


def find_participants(
    providers: Mapping[str, object],
    stateful: Mapping[str, Stateful],
    subscribers: Iterable[object],
    *,
    others: Iterable[object],
    modules: Iterable[nn.Module],
    ranks: Ranks,
) -> dict[str, Stateful]:
    """Find all that has a `state_dict` and a `load_state_dict`.

    All processes call this. A part that only some of them have is one of all, and empty elsewhere.

    Args:
        providers: What has provided the parts of the run, by the names under which they are saved.
        stateful: What users have named.
        subscribers: Whose methods listen; they are saved under the names of their classes, numbered from the second.
        others: Whose state is saved elsewhere.
        modules: The stages of the model, whose layers are saved with it.
        ranks: The processes of the job.

    Returns:
        Who takes part, by name; the same names in all processes.
    """
    given = {**providers, **{f"stateful {name}": holder for name, holder in stateful.items()}}
    others = [*others, *(layer for module in modules for layer in module.modules())]
    known = {id(other) for other in others}
    found: dict[str, Stateful] = {}
    numbers: collections.Counter[str] = collections.Counter()
    for name, holder in itertools.chain(given.items(), ((None, subscriber) for subscriber in subscribers)):
        if _has_state(holder) and id(holder) not in known:
            known.add(id(holder))
            found[name or _name(holder, numbers)] = holder
    names = dict.fromkeys(itertools.chain.from_iterable(ranks.gather([*found])))
    return {name: found.get(name, _Elsewhere()) for name in names}


class _Elsewhere:
    """Stands for someone who takes part in other processes."""

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state_dict: dict[str, Any], /) -> None:
        """Take nothing back."""


def _has_state(holder: object) -> TypeGuard[Stateful]:
    # A class has these methods as well, and no state.
    return isinstance(holder, Stateful) and not isinstance(holder, type)


def _name(subscriber: object, numbers: collections.Counter[str]) -> str:
    name = f"subscriber {type(subscriber).__module__}.{type(subscriber).__qualname__}"
    numbers[name] += 1
    return name if numbers[name] == 1 else f"{name} {numbers[name]}"
