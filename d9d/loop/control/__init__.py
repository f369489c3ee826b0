"""What users plug into the loops: the task, and the providers of model, dataset, optimizer and scheduler."""

from d9d.loop.control.dataset_provider import DatasetProvider, InitializeDatasetContext, InitializeDatasetResult
from d9d.loop.control.lr_scheduler_provider import InitializeLRSchedulerContext, LRSchedulerProvider
from d9d.loop.control.model_provider import (
    InitializeModelStageContext,
    InitializeModelStageResult,
    ModelProvider,
    ParallelizeModelStageContext,
    RegisterModelEventsContext,
)
from d9d.loop.control.optimizer_provider import InitializeOptimizerContext, OptimizerProvider
from d9d.loop.control.task import (
    BaseTask,
    BuildForwardInputsContext,
    BuildForwardInputsResult,
    ComputeLossContext,
    ComputeLossResult,
    CreateMetricsContext,
    InferenceTask,
    ProcessOutputsContext,
    RegisterTaskEventsContext,
    TrainTask,
)

__all__ = [
    "BaseTask",
    "BuildForwardInputsContext",
    "BuildForwardInputsResult",
    "ComputeLossContext",
    "ComputeLossResult",
    "CreateMetricsContext",
    "DatasetProvider",
    "InferenceTask",
    "InitializeDatasetContext",
    "InitializeDatasetResult",
    "InitializeLRSchedulerContext",
    "InitializeModelStageContext",
    "InitializeModelStageResult",
    "InitializeOptimizerContext",
    "LRSchedulerProvider",
    "ModelProvider",
    "OptimizerProvider",
    "ParallelizeModelStageContext",
    "ProcessOutputsContext",
    "RegisterModelEventsContext",
    "RegisterTaskEventsContext",
    "TrainTask",
]
