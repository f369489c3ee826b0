"""The mypy plugin, named `d9d.mypy` in `plugins`: it verifies what handlers of the Event Bus receive.

Frozen on purpose: mypy drops its whole cache when this very file changes, and looks at no other file of the plugin.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mypy.plugin import Plugin

__all__ = ["plugin"]


def plugin(version: str) -> "type[Plugin]":  # noqa: ARG001 - mypy passes its version
    """Return the plugin; mypy calls this once a run.

    Args:
        version: The version of mypy.

    Returns:
        The class that mypy instantiates.
    """
    # No module here is called `plugin`: once imported it would take this function's place in the package.
    from d9d.mypy.dispatch import D9dPlugin  # noqa: PLC0415 - keeps this file free of everything that may change

    return D9dPlugin
