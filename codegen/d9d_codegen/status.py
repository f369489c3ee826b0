"""How settled an entry is, in words."""

from collections.abc import Iterator

from d9d_codegen.model import Status


def sentences(status: Status) -> Iterator[str]:
    """Yield what there is to say about an entry: since when, how stable, and whether it will go."""
    if status.since:
        yield f"Since {status.since}."
    if status.stability == "experimental":
        yield "Experimental: it may still change."
    if status.stability == "stable":
        yield "Stable."
    if status.deprecated:
        yield deprecation(status)


def deprecation(status: Status) -> str:
    """Return since when an entry is deprecated, and what to use instead; nothing where it is not."""
    deprecated = status.deprecated
    if not deprecated:
        return ""
    replacement = f"; use {deprecated.replaced_by} instead" if deprecated.replaced_by else ""
    note = f" {deprecated.note.strip()}" if deprecated.note else ""
    return f"Deprecated since {deprecated.since}{replacement}.{note}"


def with_status(doc: str, status: Status) -> str:
    """Return a text with a paragraph below it that says how settled the entry is, if anything is said about that."""
    paragraph = " ".join(sentences(status))
    return f"{doc.strip()}\n\n{paragraph}" if paragraph else doc
