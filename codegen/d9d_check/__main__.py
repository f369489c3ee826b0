"""Runs the command as `python -m d9d_check`."""

import sys

from d9d_check.cli import main

sys.exit(main())
