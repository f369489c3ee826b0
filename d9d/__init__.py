"""Training and inference loops for PyTorch, extended through a typed and statically verified Event Bus.

The names that users import are listed once, in `__init__.pyi`, where type checkers and editors read them. At run time
each is imported from its module on first use, so that `import d9d` loads neither torch nor anything else.
"""

import functools
import importlib
from typing import Any


@functools.cache
def _modules() -> dict[str, str]:
    """Return the public names, each with the module that it is imported from."""
    import ast  # noqa: PLC0415 -- needed on first use only
    import pkgutil  # noqa: PLC0415 -- the same

    stub = pkgutil.get_data(__name__, "__init__.pyi")
    if stub is None:
        raise ImportError(
            f"cannot read {__path__[0]}/__init__.pyi, which lists what d9d exports: install d9d-hooks again"
        )
    return {
        alias.name: node.module
        for node in ast.parse(stub).body
        if isinstance(node, ast.ImportFrom) and node.module is not None
        for alias in node.names
    }


def _version() -> str:
    """Return the version of the installed distribution, whose name is not that of this package."""
    from importlib import metadata  # noqa: PLC0415 -- needed on first use only

    try:
        return metadata.version("d9d-hooks")
    except metadata.PackageNotFoundError:  # a source tree that is not installed
        return "unknown"


def __getattr__(name: str) -> Any:
    value: Any
    if name == "__version__":
        value = _version()
    elif name == "__all__":
        value = sorted([*_modules(), "__version__"])
    elif not name.startswith("_") and name in _modules():
        value = getattr(importlib.import_module(_modules()[name]), name)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*_modules(), "__all__", "__version__", *(name for name in globals() if name.startswith("__"))})
