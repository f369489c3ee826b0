"""The command `d9d`: checks programs, and manages checkpoints."""

import sys
from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        arguments: Its arguments; by default those of the process.

    Returns:
        The exit status: 0 on success, 1 on failure.
    """
    given = sys.argv[1:] if arguments is None else list(arguments)
    if given[:1] == ["check"]:
        from d9d_check.cli import main as check  # noqa: PLC0415 -- it loads no torch, and starts in a tenth of the time

        return check(given[1:])
    from d9d.loop.component.checkpoint.command import main as manage  # noqa: PLC0415 -- the same

    return manage(given)


if __name__ == "__main__":
    sys.exit(main())
