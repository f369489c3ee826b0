"""Everything about an inference run that is a number, a name or a path."""

from d9d.loop.config.loop import LoopConfig


class InferenceConfig(LoopConfig):
    """Everything about an inference run that is a number, a name or a path."""
