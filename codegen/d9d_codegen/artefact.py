"""A file that is generated from a catalogue."""

from dataclasses import dataclass
from pathlib import PurePosixPath


@dataclass(frozen=True, slots=True)
class Artefact:
    """A generated file.

    Attributes:
        path: Where it lies, relative to the project's root.
        text: What it holds.
        gives_way: Whether a file of that name that somebody wrote by hand is left in peace.
    """

    path: PurePosixPath
    text: str
    gives_way: bool = False
