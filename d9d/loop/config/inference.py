"""Everything about an inference run that is a number, a name or a path."""

from pathlib import Path

from d9d.loop.config.loop import LoopConfig


class InferenceConfig(LoopConfig):
    """Everything about an inference run that is a number, a name or a path."""

    source_checkpoint: Path | None = None
    """Where the weights come from: one checkpoint of a training run; the folder that holds them, whose newest complete
    one is taken; or exported weights, a file of safetensors or a folder of such. `None` keeps those that the model
    provider made."""
