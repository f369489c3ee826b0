"""Real text that every machine has: the source files of Python's standard library."""

import dataclasses
import hashlib
import math
import sysconfig
from pathlib import Path

import torch
from torch.utils.data import Dataset

VOCABULARY_SIZE = 257
"""The 256 bytes, and the token before the first byte of each file."""

START_OF_FILE = 256

_HELD_OUT_ONE_IN = 50
_SKIPPED_FOLDERS = frozenset({"site-packages", "dist-packages", "test", "tests", "idle_test", "__pycache__"})


@dataclasses.dataclass(frozen=True)
class SourceFile:
    """One file of the corpus.

    Attributes:
        name: Its path below the standard library.
        content: Its bytes.
    """

    name: str
    content: bytes

    @property
    def is_held_out(self) -> bool:
        """Whether the file is excluded from training. This depends only on its name, not on the other files."""
        return hashlib.sha256(self.name.encode()).digest()[0] % _HELD_OUT_ONE_IN == 0

    def tokens(self) -> torch.Tensor:
        """Return the start token and the bytes, int64 [1 + num_bytes]."""
        return torch.tensor([START_OF_FILE, *self.content])


def read_corpus() -> list[SourceFile]:
    """Read all source files of the standard library except its tests, sorted by name."""
    root = Path(sysconfig.get_paths()["stdlib"])
    paths = (path.relative_to(root) for path in sorted(root.rglob("*.py")))
    files = [
        SourceFile(path.as_posix(), (root / path).read_bytes())
        for path in paths
        if not _SKIPPED_FOLDERS.intersection(path.parts)
    ]
    return [file for file in files if file.content]


class TrainingWindows(Dataset[dict[str, torch.Tensor]]):
    """Windows over the concatenated training files. The targets are the tokens, shifted by one.

    Args:
        files: The corpus; held-out files are excluded.
        context_length: How many tokens a window has.
    """

    def __init__(self, files: list[SourceFile], context_length: int) -> None:
        self._tokens = torch.cat([file.tokens() for file in files if not file.is_held_out])
        self._context_length = context_length

    def __len__(self) -> int:
        return (len(self._tokens) - 1) // self._context_length

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        start = index * self._context_length
        window = self._tokens[start : start + self._context_length + 1]
        return {"tokens": window[:-1], "targets": window[1:]}


class HeldOutWindows(Dataset[dict[str, torch.Tensor]]):
    """Windows over each held-out file, padded at the end of the file, with the index of the file.

    Args:
        files: The corpus; training files are excluded.
        context_length: How many tokens a window has.
        multiple_of: Pads the number of windows to a multiple of this, with windows whose targets are all ignored:
            processes that exchange tokens need batches of the same size.
    """

    IGNORED = -100
    """The target of positions that do not count: those past the end of a file."""

    def __init__(self, files: list[SourceFile], context_length: int, *, multiple_of: int = 1) -> None:
        self.files = [file for file in files if file.is_held_out]
        self._tokens = [file.tokens() for file in self.files]
        self._context_length = context_length
        self._starts = [
            (index, start)
            for index, file in enumerate(self.files)
            for start in range(0, len(file.content), context_length)
        ]
        self._num_windows = math.ceil(len(self._starts) / multiple_of) * multiple_of

    def __len__(self) -> int:
        return self._num_windows

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        tokens = torch.zeros(self._context_length, dtype=torch.int64)
        targets = torch.full((self._context_length,), self.IGNORED)
        if index >= len(self._starts):
            return {"tokens": tokens, "targets": targets, "file": torch.tensor(0)}
        file, start = self._starts[index]
        window = self._tokens[file][start : start + self._context_length + 1]
        tokens[: len(window) - 1] = window[:-1]
        targets[: len(window) - 1] = window[1:]
        return {"tokens": tokens, "targets": targets, "file": torch.tensor(file)}
