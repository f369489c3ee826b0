"""What has changed about the contexts of a module, and about their fields."""

from collections.abc import Iterator
from typing import NamedTuple

from d9d_codegen.evolution.change import Change, excuse
from d9d_codegen.evolution.documentation import status_changes
from d9d_codegen.evolution.edition import Edition, context_target, field_target
from d9d_codegen.evolution.replacement import replacement_changes
from d9d_codegen.evolution.widening import Relation, relation
from d9d_codegen.model import Context, Field


class _Pair(NamedTuple):
    """A context in both editions, and the module that has it."""

    before: Edition
    after: Edition
    module: str
    old: Context
    new: Context


def context_changes(before: Edition, after: Edition, module: str) -> Iterator[Change]:
    """Yield what has changed about the contexts of a module that at least one edition has."""
    old = (
        {str(context.name): context for context in before.modules[module].contexts} if module in before.modules else {}
    )
    new = {str(context.name): context for context in after.modules[module].contexts} if module in after.modules else {}
    yield from replacement_changes(before, after, old, new)
    for name, context in old.items():
        if name not in new:
            message, place = f"{module} has no context {name} any more", after.place(after.holder(module))
            reason = excuse(context.status, removal=True)
            yield Change("context-removed", message, before.place(context.name), place, reason)
            continue
        yield from status_changes(before, after, context, new[name])
        if context_target(context, before.modules[module]) is context:
            stands_for = context_target(new[name], after.modules[module])
            yield from _field_changes(_Pair(before, after, module, context, stands_for))
    for name, context in new.items():
        if name not in old:
            message, place = f"{module} has a new context {name}", before.place(before.holder(module))
            yield Change("context-added", message, place, after.place(context.name))


def _field_changes(pair: _Pair) -> Iterator[Change]:
    before, after, _, old_context, new_context = pair
    old = {str(field.name): field for field in old_context.fields}
    new = {str(field.name): field for field in new_context.fields}
    replacing: set[str] = set()
    yield from replacement_changes(before, after, old, new)
    for name, field in old.items():
        if name not in new:
            message = f"{new_context.name} has no field {name} any more"
            reason = excuse(field.status, old_context.status, removal=True)
            yield Change("field-removed", message, before.place(field.name), after.place(new_context.name), reason)
            continue
        yield from status_changes(before, after, field, new[name])
        stands_for = field_target(new[name], new_context)
        if stands_for is not new[name]:
            replacing.add(str(stands_for.name))
        if field_target(field, old_context) is field:
            yield from _value_changes(pair, field, stands_for)
        elif stands_for is new[name] and stands_for.default is None:
            message = f"{name} is a field of its own now, without a default"
            places = before.place(field.name), after.place(stands_for.name)
            yield Change("field-required", message, *places, excuse(old_context.status))
    for name, field in new.items():
        if name not in old:
            is_optional = field.default is not None or name in replacing
            message = f"{new_context.name} has a new field {name}"
            places = before.place(old_context.name), after.place(field.name)
            if is_optional:
                yield Change("field-added", message, *places)
            else:
                yield Change("field-required", f"{message} without a default", *places, excuse(old_context.status))


def _value_changes(pair: _Pair, old: Field, new: Field) -> Iterator[Change]:
    before, after, module, old_context, _ = pair
    reason = excuse(old.status, old_context.status)
    old_type = before.type_text(before.modules[module], old, after)
    new_type = after.type_text(after.modules[module], new, after)
    kinds = {Relation.WIDENED: "type-widened", Relation.NARROWED: "type-narrowed", Relation.CHANGED: "type-changed"}
    found = relation(old_type, new_type)
    message = f'the type of {new.name} is "{new.type.strip()}", and was "{old.type.strip()}"'
    places = before.place(old.type), after.place(new.type)
    if found in kinds:
        yield Change(kinds[found], message, *places, reason)
    elif old_type != new_type:
        yield Change("type-respelt", message, *places)
    yield from _default_changes(pair, old, new, reason)


def _default_changes(pair: _Pair, old: Field, new: Field, reason: str | None) -> Iterator[Change]:
    before, after = pair.before, pair.after
    if old.default == new.default:
        return
    if new.default is None:
        message = f"{new.name} has no default any more"
        yield Change("default-removed", message, before.place(old.default or old.name), after.place(new.name), reason)
    elif old.default is None:
        message = f"{new.name} has a default now"
        yield Change("default-added", message, before.place(old.name), after.place(new.default))
    else:
        message = f"the default of {new.name} is {new.default}, and was {old.default}"
        yield Change("default-changed", message, before.place(old.default), after.place(new.default))
