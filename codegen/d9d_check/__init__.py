"""Checks the handlers of a program without running it, and without a type checker: the command `d9d check`."""
