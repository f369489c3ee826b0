"""The entry point of the command `d9d-catalogue`, also as `python -m d9d_codegen`."""

import sys
from collections.abc import Sequence

_PACKAGES = {"jinja2": "jinja2", "yaml": "pyyaml"}
"""What the extra `codegen` installs, by the names of the modules."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command, or say what to install for it.

    Args:
        arguments: Its arguments; by default those of the process.

    Returns:
        The exit status.
    """
    try:
        from d9d_codegen.cli import main as run  # noqa: PLC0415 -- needs the extra

        return run(arguments)
    except ModuleNotFoundError as error:
        package = _PACKAGES.get((error.name or "").partition(".")[0])
        if package is None:
            raise
        sys.stderr.write(
            f"d9d-catalogue needs {package}, which is not installed: run `pip install 'd9d-hooks[codegen]'`\n"
        )
        return 1


if __name__ == "__main__":
    sys.exit(main())
