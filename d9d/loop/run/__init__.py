"""The two runs: a configurator builds each, and the built object runs it; and how a script starts them."""

from d9d.loop.run.inference import Inference, InferenceConfigurator
from d9d.loop.run.launch import launch
from d9d.loop.run.training import Trainer, TrainingConfigurator

__all__ = ["Inference", "InferenceConfigurator", "Trainer", "TrainingConfigurator", "launch"]
