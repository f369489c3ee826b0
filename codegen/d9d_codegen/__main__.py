"""Runs the command: `python -m d9d_codegen`."""

import sys

from d9d_codegen.cli import main

if __name__ == "__main__":
    sys.exit(main())
