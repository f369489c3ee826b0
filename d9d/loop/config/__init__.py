"""How a loop is configured: every setting, its meaning and its unit."""

from d9d.core.configuration import ConfigurationError
from d9d.core.dist_context import DeviceMeshParameters
from d9d.loop.config.checkpointing import CheckpointingConfig
from d9d.loop.config.data_loading import DataLoadingConfig
from d9d.loop.config.inference import InferenceConfig
from d9d.loop.config.loop import LoopConfig, Precision
from d9d.loop.config.pipeline import PipelineConfig
from d9d.loop.config.profiling import ProfilingConfig
from d9d.loop.config.reporting import ReportingConfig
from d9d.loop.config.timeouts import TimeoutConfig
from d9d.loop.config.training import TrainingConfig

__all__ = [
    "CheckpointingConfig",
    "ConfigurationError",
    "DataLoadingConfig",
    "DeviceMeshParameters",
    "InferenceConfig",
    "LoopConfig",
    "PipelineConfig",
    "Precision",
    "ProfilingConfig",
    "ReportingConfig",
    "TimeoutConfig",
    "TrainingConfig",
]
