"""The last of three modules whose classes derive from each other: it is right as long as the first registers."""

from chain_middle import Log, SecondTask


class RightTask(Log, SecondTask):
    """Adds nothing, so that no expression here is of a type of the first module."""
