"""Characters that need care wherever a text is shown.

What is said here of a character does not change when a new version of Unicode assigns more of them, so that every
Python generates the same files.
"""

import unicodedata
from typing import Final

_INVISIBLE: Final = frozenset(["Cc", "Cf", "Co", "Zl", "Zp", "Zs"])  # controls, marks, private use, separators
_ARABIC_GAP: Final = range(0xFDD0, 0xFDF0)


def is_forbidden(char: str) -> bool:
    """Return whether no text may hold a character: a control other than tab and line feed, or no character at all."""
    is_no_character = ord(char) & 0xFFFE == 0xFFFE or ord(char) in _ARABIC_GAP  # noqa: PLR2004 -- by definition
    return is_no_character or (unicodedata.category(char) == "Cc" and char not in "\t\n")


def is_invisible(char: str) -> bool:
    """Return whether a reader cannot see a character, or see which one it is, and it is no plain space."""
    return char != " " and unicodedata.category(char) in _INVISIBLE
