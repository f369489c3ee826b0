"""The digests in the head of a generated file, by which a stale one is told from one that was edited by hand.

One is of the body: of all the file but the line that holds the digests, the other of that part of the
catalogue which the file is about, and not of all of it: an edit of one module leaves the files of others as they are.
"""

import re
from dataclasses import dataclass
from hashlib import sha256
from typing import Final

_SIZE: Final = 16  # hexadecimal digits: against accidents, not against malice
_PATTERN: Final = re.compile(rb"catalogue ([0-9a-f]{16}), body ([0-9a-f]{16})")
_NUM_HEAD_LINES: Final = 5
_UNKNOWN: Final = "0" * _SIZE


@dataclass(frozen=True, slots=True)
class Digests:
    """What the head of a file says of its origin.

    Attributes:
        catalogue: The digest of what the file was generated from.
        body: The digest of the file as it was generated.
    """

    catalogue: str
    body: str


def unsealed(part: object) -> str:
    """Return the digests for the head of a file whose body is not yet known.

    Args:
        part: The part of the catalogue that the file is about; its `repr` says all that it holds, without positions.
    """
    return f"catalogue {_digest(repr(part).encode())}, body {_UNKNOWN}"


def sealed(text: str) -> str:
    """Return a file with the digest of its body in its head."""
    return text.replace(f", body {_UNKNOWN}", f", body {body_of(text.encode())}", 1)


def digests_in(content: bytes) -> Digests | None:
    """Return the digests in the head of a file, if they are there."""
    match = _find(content)
    return Digests(match[1].decode(), match[2].decode()) if match else None


def body_of(content: bytes) -> str:
    """Return the digest of the body of a file."""
    match = _find(content)
    if not match:
        return _digest(content)
    start, end = content.rfind(b"\n", 0, match.start()) + 1, content.find(b"\n", match.end())
    return _digest(content[:start] + content[end:])


def _find(content: bytes) -> re.Match[bytes] | None:
    head = b"\n".join(content.split(b"\n", _NUM_HEAD_LINES)[:_NUM_HEAD_LINES])
    return _PATTERN.search(head)


def _digest(content: bytes) -> str:
    return sha256(content).hexdigest()[:_SIZE]
