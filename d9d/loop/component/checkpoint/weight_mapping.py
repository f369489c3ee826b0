"""How the weights of a model correspond to those in files: names, shapes, dtypes, and what may be missing."""

import dataclasses
import functools
import itertools
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import TypeAlias

import torch

from d9d.core.settings import ConfigurationError
from d9d.loop.component.checkpoint.files import CheckpointError
from d9d.loop.component.checkpoint.state_dict import Region, TensorInfo

_TOKENS = re.compile(r"\*\*|\*|#")
_GROUPS = {"**": "(.+)", "*": "([^.]+)", "#": r"(\d+)"}
_NUM_WITH_NEAREST = 50
_REMEDY = (
    "Build the model that the weights belong to, set source_checkpoint to other weights, or pass a weight_mapping: "
    "WeightMapping(rules=[WeightRule(name in the files, name in the model)]) for other names and shapes, "
    "missing=[...] for weights that keep their initial values, unexpected=[...] for weights to ignore, "
    "and both for a weight that replaces one of another shape, such as a new head"
)


Step: TypeAlias = Callable[[Region], Region | None]
"""Converts a part of a tensor to the coordinates of one that it is made of; `None` if that has none of it."""


def follow(steps: Iterable[Step], region: Region | None) -> Region | None:
    """Convert a part of a tensor to the coordinates of another one, step by step."""
    for step in steps:
        region = None if region is None else step(region)
    return region


@dataclasses.dataclass(frozen=True)
class _Select:
    """From a stack to one of its items."""

    index: int

    def __call__(self, region: Region) -> Region | None:
        place = self.index - region.offsets[0]
        return Region(region.tensor[place], region.offsets[1:]) if 0 <= place < len(region.tensor) else None


@dataclasses.dataclass(frozen=True)
class _Insert:
    """From an item to the stack that contains it."""

    index: int

    def __call__(self, region: Region) -> Region:
        return Region(region.tensor.unsqueeze(0), (self.index, *region.offsets))


@dataclasses.dataclass(frozen=True)
class _Narrow:
    """From joined tensors to one of them."""

    dim: int
    start: int
    length: int

    def __call__(self, region: Region) -> Region | None:
        own = region.offsets[self.dim]
        start, end = max(own, self.start), min(own + region.tensor.shape[self.dim], self.start + self.length)
        if start >= end:
            return None
        offsets = list(region.offsets)
        offsets[self.dim] = start - self.start
        return Region(region.tensor.narrow(self.dim, start - own, end - start), tuple(offsets))


@dataclasses.dataclass(frozen=True)
class _Shift:
    """From one of several tensors to the tensor that joins them."""

    dim: int
    start: int

    def __call__(self, region: Region) -> Region:
        offsets = list(region.offsets)
        offsets[self.dim] += self.start
        return Region(region.tensor, tuple(offsets))


def _transpose(region: Region) -> Region:
    *first, rows, columns = region.offsets
    return Region(region.tensor.transpose(-1, -2), (*first, columns, rows))


@dataclasses.dataclass(frozen=True)
class Recipe:
    """What a tensor is made of.

    Attributes:
        info: The tensor.
        parts: The names of its parts, and how to get from the tensor to each of them.
    """

    info: TensorInfo
    parts: tuple[tuple[str, tuple[Step, ...]], ...]


class _Pattern:
    """A name in which `*`, `**` and `#` stand for parts.

    Args:
        text: The pattern.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        self.tokens: list[str] = _TOKENS.findall(text)
        self._literals = _TOKENS.split(text)
        pieces = [re.escape(self._literals[0])]
        for token, literal in zip(self.tokens, self._literals[1:], strict=True):
            pieces += [_GROUPS[token], re.escape(literal)]
        self._regex = re.compile("".join(pieces))

    def match(self, name: str) -> tuple[tuple[str, ...], int] | None:
        """Return what the stars stand for, and the number at `#`."""
        found = self._regex.fullmatch(name)
        if found is None:
            return None
        values = list(zip(self.tokens, found.groups(), strict=True))
        numbers = [int(value) for token, value in values if token == "#"]  # noqa: S105 -- no password
        return tuple(value for token, value in values if token != "#"), (numbers or [0])[0]  # noqa: S105 -- the same

    def fill(self, stars: tuple[str, ...], number: int) -> str:
        """Return the name for what the stars stand for."""
        values = iter(stars)
        filled = [self._literals[0]]
        for token, literal in zip(self.tokens, self._literals[1:], strict=True):
            filled += [str(number) if token == "#" else next(values), literal]  # noqa: S105 -- the same
        return "".join(filled)


@functools.lru_cache(maxsize=1024)
def _compiled(text: str) -> _Pattern:
    return _Pattern(text)


def _patterns(side: str | Sequence[str]) -> tuple[_Pattern, ...]:
    return tuple(_compiled(text) for text in ([side] if isinstance(side, str) else side))


@dataclasses.dataclass(frozen=True)
class WeightRule:
    """How weights in files correspond to weights of the model. It holds in both directions.

    In names, `*` stands for one part between dots, `**` for one or more, and both sides have the same ones in the same
    order. `#` stands for the numbers from 0: the weights of all numbers are stacked along a new first dimension of the
    weight on the other side.

    Attributes:
        source: The name in the files. Several names are joined along `dim` to one weight of the model.
        model: The name in the model. One weight of the files is split along `dim` into several names.
        dim: The dimension of the model's weights along which they are joined or split, not counting a stacked one.
        sizes: The sizes along `dim` of the weights that are joined or split; by default they are equal.
        transpose: Whether the last two dimensions are in the opposite order in the files.

    Raises:
        ConfigurationError: If the two sides do not fit each other.
    """

    source: str | Sequence[str]
    model: str | Sequence[str]
    dim: int = 0
    sizes: Sequence[int] | None = None
    transpose: bool = False

    def __post_init__(self) -> None:
        for name in ("source", "model", "sizes"):
            if not isinstance(value := getattr(self, name), str | None):
                object.__setattr__(self, name, tuple(value))  # a rule is hashable
        sides = (_patterns(self.source), _patterns(self.model))
        problem = None
        if len({tuple(token for token in each.tokens if token != "#") for side in sides for each in side}) != 1:  # noqa: S105 -- no password
            problem = "all names must have the same stars in the same order"
        elif any(len({each.tokens.count("#") for each in side}) != 1 for side in sides) or (
            sum(side[0].tokens.count("#") for side in sides) > 1
        ):
            problem = "'#' may be in the names of one side, once in each"
        elif min(map(len, sides)) > 1:
            problem = "one of the two sides must be a single name"
        elif self.sizes is not None and len(self.sizes) != max(map(len, sides)):
            problem = f"sizes has {len(self.sizes)} numbers for {max(map(len, sides))} names"
        if problem:
            raise ConfigurationError(f"{self} is no rule: {problem}")

    def __str__(self) -> str:
        return f"WeightRule({self.source!r}, {self.model!r})"


@dataclasses.dataclass(frozen=True)
class RenameFunction:
    """Renames weights by functions, where patterns do not suffice.

    Attributes:
        to_model: Returns the name in the model for a name in the files, or `None` to leave it to the next rule.
        to_source: The opposite, which exports need.
    """

    to_model: Callable[[str], str | None]
    to_source: Callable[[str], str | None] | None = None


AnyRule: TypeAlias = WeightRule | RenameFunction


@dataclasses.dataclass(frozen=True)
class LoadPlan:
    """What to load into a model.

    Attributes:
        recipes: For each weight of the model that is loaded, the number of its source, and what it is made of.
        duplicates: Of weights that the model ties, those that a source has under another name too.
        missing: The weights that no source has, and that may be missing.
        ignored: The weights of the sources that the model does not have, and that may be ignored.
        cast: The weights that are converted from another dtype.
    """

    recipes: Mapping[str, tuple[int, Recipe]]
    duplicates: Mapping[str, tuple[int, Recipe]]
    missing: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()
    cast: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class WeightMapping:
    """How the weights of a model correspond to those in files, for loading and for exporting.

    The first rule that fits a name decides; names that no rule fits are the same on both sides. Floating-point weights
    are converted to the dtypes of the model. Weights that the model ties are one, under the first of their names.

    Attributes:
        rules: Rules for names and shapes.
        missing: Patterns, as in rules, of weights of the model that the files may lack: they keep their initial values.
        unexpected: Patterns of weights in the files that the model may lack: they are ignored. A weight with another
            shape in the files, such as a head for other classes, is both missing and unexpected.
        tied: Weights of the model that start as copies of others if the files lack them: `{name: other name}`.
        export_dtype: The dtype of floating-point weights in exports; by default that of the model.
    """

    rules: Sequence[AnyRule] = ()
    missing: Sequence[str] = ()
    unexpected: Sequence[str] = ()
    tied: Mapping[str, str] = dataclasses.field(default_factory=dict)
    export_dtype: torch.dtype | None = None

    def plan_load(
        self,
        sources: Sequence[Mapping[str, TensorInfo]],
        model: Mapping[str, TensorInfo],
        *,
        aliases: Mapping[str, str],
        described: str,
        native: Collection[int] = (),
    ) -> LoadPlan:
        """Decide what is loaded into which weight.

        Args:
            sources: The weights of each source. If several have a weight, the last one counts.
            model: The weights of the model.
            aliases: Further names of weights that the model ties, with the names that they have in `model`.
            described: The sources, for errors.
            native: The numbers of the sources that are checkpoints of d9d: names that the model has stay as they are.

        Raises:
            CheckpointError: If weights are missing or unexpected, or shapes or dtypes do not fit, with each of them.
        """
        recipes: dict[str, tuple[int, Recipe]] = {}
        through_alias: dict[str, tuple[int, Recipe]] = {}
        unexpected: dict[str, TensorInfo] = {}
        problems: list[str] = []
        for number, source in enumerate(sources):
            kept = {*model, *aliases} if number in native else ()
            made, incomplete = _apply(self.rules, source, to_model=True, kept=kept)
            problems += incomplete
            for name, recipe in made.items():
                if name in model:
                    recipes[name] = (number, recipe)
                elif name in aliases:
                    through_alias[aliases[name]] = (number, recipe)
                else:
                    unexpected[name] = recipe.info
        duplicates = {name: found for name, found in through_alias.items() if name in recipes}
        recipes |= {name: found for name, found in through_alias.items() if name not in recipes}
        copied = {name: other for name, other in self.tied.items() if name in model.keys() - recipes.keys()}
        recipes |= {name: recipes[other] for name, other in copied.items() if other in recipes}
        for name in [name for name, (_, recipe) in recipes.items() if self.is_replaced(name, model[name], recipe.info)]:
            unexpected[name] = recipes.pop(name)[1].info
            duplicates.pop(name, None)
        missing = [name for name in model if name not in recipes]
        refused = {name: model[name] for name in missing if not _fits(name, self.missing)}
        surplus = {name: info for name, info in unexpected.items() if not _fits(name, self.unexpected)}
        problems += _list_names("missing", refused, surplus or unexpected, "in the weights")
        problems += _list_names("unexpected", surplus, refused or model, "in the model")
        cast: list[str] = []
        for name, (_, recipe) in [*recipes.items(), *duplicates.items()]:
            problems += _misfit(name, model[name], recipe.info)
            if model[name].dtype != recipe.info.dtype:
                cast.append(name)
        if problems:
            raise CheckpointError(
                f"the weights in {described} do not fit this model:\n  " + "\n  ".join(problems) + f"\n{_REMEDY}"
            )
        return LoadPlan(recipes, duplicates, tuple(missing), tuple(unexpected), tuple(cast))

    def is_replaced(self, name: str, own: TensorInfo, found: TensorInfo) -> bool:
        """Return whether a weight of the model takes the place of one of another shape, and is not loaded.

        Args:
            name: Its name in the model.
            own: The weight of the model.
            found: The one in the files.
        """
        return own.shape != found.shape and _fits(name, self.missing) and _fits(name, self.unexpected)

    def weights_in_model(self, source: Mapping[str, TensorInfo]) -> dict[str, TensorInfo]:
        """Return the weights that files have, as they are in a model.

        Args:
            source: The weights in the files.
        """
        made = {name: recipe.info for name, recipe in _apply(self.rules, source, to_model=True)[0].items()}
        return made | {name: made[other] for name, other in self.tied.items() if other in made}

    def plan_export(self, model: Mapping[str, TensorInfo]) -> dict[str, Recipe]:
        """Decide what is exported.

        Args:
            model: The weights of the model.

        Returns:
            The tensors of the files by name, and which weights of the model they are made of.

        Raises:
            CheckpointError: If a rule does not fit the weights, or cannot be reversed.
        """
        for rule in self.rules:
            if isinstance(rule, RenameFunction) and rule.to_source is None:
                raise CheckpointError(
                    "the weights cannot be exported with this weight_mapping: its RenameFunction has no to_source, "
                    "which returns the name in the files for a name in the model; add one"
                )
        made, problems = _apply(self.rules, model, to_model=False)
        if problems:
            raise CheckpointError("the weight_mapping does not fit the model:\n  " + "\n  ".join(problems))
        return {
            name: dataclasses.replace(recipe, info=TensorInfo(self._export_dtype(recipe.info.dtype), recipe.info.shape))
            for name, recipe in made.items()
        }

    def _export_dtype(self, dtype: torch.dtype) -> torch.dtype:
        return self.export_dtype if self.export_dtype is not None and dtype.is_floating_point else dtype


def _fits(name: str, patterns: Collection[str]) -> bool:
    return any(_compiled(pattern).match(name) is not None for pattern in patterns)


def _misfit(name: str, own: TensorInfo, found: TensorInfo) -> Iterator[str]:
    """Describe a weight that cannot be loaded into that of the model."""
    if own.shape != found.shape:
        yield f"shape: {name!r} is {own} in the model and {found} in the weights"
    elif own.dtype != found.dtype and not (own.dtype.is_floating_point and found.dtype.is_floating_point):
        yield f"dtype: {name!r} is {own} in the model and {found} in the weights"


def _list_names(
    kind: str, names: Mapping[str, TensorInfo], others: Mapping[str, TensorInfo], where: str
) -> Iterator[str]:
    """Describe names, each with the nearest of others."""
    parts_of_others = {other: set(_parts(other)) for other in others}
    for number, (name, info) in enumerate(names.items()):
        nearest = _nearest(name, info, others, parts_of_others) if number < _NUM_WITH_NEAREST else None
        yield f"{kind}: {name!r} ({info})" + (f"; the nearest {where} is {nearest!r}" if nearest else "")


def _parts(name: str) -> list[str]:
    return re.split(r"[._]", name)


def _nearest(
    name: str, info: TensorInfo, others: Mapping[str, TensorInfo], parts_of_others: Mapping[str, set[str]]
) -> str | None:
    """Return the name with the most parts in common; of several, one of the same shape."""
    own = set(_parts(name))

    def similarity(other: str) -> tuple[float, bool]:
        parts = parts_of_others[other]
        return len(own & parts) / len(own | parts), others[other].shape == info.shape

    best = max(others, key=similarity, default=None)
    return best if best is not None and any(similarity(best)) else None


def _apply(
    rules: Sequence[AnyRule], inputs: Mapping[str, TensorInfo], *, to_model: bool, kept: Collection[str] = ()
) -> tuple[dict[str, Recipe], list[str]]:
    """Apply rules to the tensors of one side, except for names that are kept.

    Returns:
        The tensors of the other side by name, and a line for each rule that does not fit.
    """
    made: list[tuple[str, Recipe]] = []
    problems: list[str] = []
    matches: dict[tuple[WeightRule, tuple[str, ...]], dict[tuple[int, int], str]] = {}
    for name, info in inputs.items():
        found: _Match | str = name
        for rule in () if name in kept else rules:
            if (match := _match(rule, name, to_model=to_model)) is not None:
                found = match
                break
        if isinstance(found, str):
            made.append((found, Recipe(info, ((name, ()),))))
        else:
            fitting, stars, place = found
            matches.setdefault((fitting, stars), {})[place] = name
    for (fitting, stars), names in matches.items():
        try:
            made += _Group(fitting, stars, names, inputs, to_model=to_model).outputs().items()
        except ValueError as error:
            problems.append(f"rules: {fitting} does not fit: {error}")
    outputs: dict[str, Recipe] = {}
    for name, recipe in made:
        if name in outputs:
            origins = " and ".join(repr(each.parts[0][0]) for each in (outputs[name], recipe))
            problems.append(f"rules: {origins} both become {name!r}")
        outputs[name] = recipe
    return outputs, problems


_Match: TypeAlias = tuple[WeightRule, tuple[str, ...], tuple[int, int]]


def _match(rule: AnyRule, name: str, *, to_model: bool) -> _Match | str | None:
    """Return the new name, or what the stars of a rule stand for, and which number and which of its names this is."""
    if isinstance(rule, RenameFunction):
        rename = rule.to_model if to_model else rule.to_source
        return None if rename is None else rename(name)
    for position, pattern in enumerate(_patterns(rule.source if to_model else rule.model)):
        if (found := pattern.match(name)) is not None:
            stars, number = found
            return rule, stars, (number, position)
    return None


class _Group:
    """The tensors that one rule takes together.

    Args:
        rule: The rule.
        stars: What its stars stand for.
        names: The name of the input for each number at `#`, and each position among the names of the rule.
        infos: The inputs.
        to_model: Whether the inputs are the tensors of files.
    """

    def __init__(
        self,
        rule: WeightRule,
        stars: tuple[str, ...],
        names: Mapping[tuple[int, int], str],
        infos: Mapping[str, TensorInfo],
        *,
        to_model: bool,
    ) -> None:
        self._rule, self._stars, self._names, self._to_model = rule, stars, names, to_model
        sides = (_patterns(rule.source), _patterns(rule.model))
        self._inputs, self._outputs = sides if to_model else sides[::-1]
        self._is_stacked = "#" in self._inputs[0].tokens
        self._is_unstacked = "#" in self._outputs[0].tokens
        self._num_numbers = 1 + max(number for number, _ in names)
        self._require_complete()
        self._info = infos[names[0, 0]]
        self._items = [self._item(position, infos) for position in range(len(self._inputs))]

    def outputs(self) -> dict[str, Recipe]:
        """Return the tensors on the other side.

        Raises:
            ValueError: If the shapes do not fit the rule.
        """
        if self._to_model and self._rule.transpose:
            self._items = [_transposed(item) for item in self._items]
        dim, shape, sizes = self._joined()
        starts = list(itertools.accumulate(sizes, initial=0))
        num_outputs = self._info.shape[0] if self._is_unstacked else 1
        made: dict[str, Recipe] = {}
        for index in range(num_outputs):
            for position, pattern in enumerate(self._outputs):
                item = list(shape)
                if len(self._outputs) > 1:
                    item[dim] = sizes[position]
                if not self._to_model and self._rule.transpose:
                    item = _transposed(item)
                full = (self._num_numbers, *item) if self._is_stacked else tuple(item)
                parts: list[tuple[str, tuple[Step, ...]]] = []
                for (number, part), name in sorted(self._names.items()):
                    joint: list[Step] = []
                    if len(self._inputs) > 1:
                        joint.append(_Narrow(dim, starts[part], sizes[part]))
                    if len(self._outputs) > 1:
                        joint.append(_Shift(dim, starts[position]))
                    parts.append((name, self._steps(joint, number, index)))
                made[pattern.fill(self._stars, index)] = Recipe(TensorInfo(self._info.dtype, full), tuple(parts))
        return made

    def _require_complete(self) -> None:
        lacking = [
            pattern.fill(self._stars, number)
            for number in range(self._num_numbers)
            for position, pattern in enumerate(self._inputs)
            if (number, position) not in self._names
        ]
        if lacking:
            raise ValueError(f"it needs {', '.join(map(repr, lacking))} too")

    def _item(self, position: int, infos: Mapping[str, TensorInfo]) -> list[int]:
        """Return the shape of one input, or of one of the tensors that are stacked in it."""
        shapes = {infos[self._names[number, position]].shape for number in range(self._num_numbers)}
        if len(shapes) > 1:
            raise ValueError(f"the weights to stack have the shapes {' and '.join(map(str, sorted(shapes)))}")
        shape = list(shapes.pop())
        if self._is_unstacked and not shape:
            raise ValueError(f"{self._names[0, position]!r} is a scalar and cannot be divided")
        return shape[1:] if self._is_unstacked else shape

    def _joined(self) -> tuple[int, list[int], list[int]]:
        """Return the dimension, the shape of all inputs joined, and the sizes of the parts along the dimension.

        They are the parts of the side that has several.
        """
        first, rule = self._items[0], self._rule
        num_parts = max(len(self._inputs), len(self._outputs))
        if num_parts == 1:
            return 0, first, []
        if not -len(first) <= rule.dim < len(first):
            raise ValueError(f"a weight of the shape {first} has no dimension {rule.dim}")
        dim = rule.dim % len(first)
        if len(self._inputs) > 1:
            rests = {tuple(item[:dim] + item[dim + 1 :]) for item in self._items}
            if len(rests) > 1:
                raise ValueError(f"weights of the shapes {self._items} cannot be joined along dimension {dim}")
            sizes = [item[dim] for item in self._items]
        elif rule.sizes is not None:
            sizes = list(rule.sizes)
        else:
            sizes = [first[dim] // num_parts] * num_parts
        total = first[dim] if len(self._outputs) > 1 else sum(sizes)
        if sum(sizes) != total:
            raise ValueError(
                f"{total} along dimension {dim} cannot be split into "
                f"{sizes if rule.sizes is not None else f'{num_parts} equal parts'}"
            )
        return dim, [*first[:dim], total, *first[dim + 1 :]], sizes

    def _steps(self, joint: list[Step], number: int, index: int) -> tuple[Step, ...]:
        """Return how to get from an output to one of its inputs."""
        steps = [_Select(number)] if self._is_stacked else []
        turn = [_transpose] if self._rule.transpose else []
        last = [_Insert(index)] if self._is_unstacked else []
        return (*steps, *joint, *turn, *last) if self._to_model else (*steps, *turn, *joint, *last)


def _transposed(shape: Sequence[int]) -> list[int]:
    if len(shape) < 2:  # noqa: PLR2004 -- a matrix has two
        raise ValueError(f"a weight of the shape {list(shape)} cannot be transposed")
    *first, rows, columns = shape
    return [*first, columns, rows]
