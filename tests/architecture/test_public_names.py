"""The names that users import are frozen: adding or removing one is a decision, made here as well."""

import importlib

import pytest

PUBLIC_NAMES = {
    "d9d.core.dist_context": {"DeviceMeshParameters", "DistributedContext", "MeshName"},
    "d9d.core.parallel": {"shard_data_parallel", "shard_experts"},
    "d9d.core.metric": {"MaxMetric", "Metric", "MetricValue", "Reduction", "SumMetric", "WeightedMeanMetric"},
    "d9d.core.protocol": {"LRSchedulerProtocol", "OptimizerProtocol", "Stateful"},
    "d9d.loop.component": {"LRSchedule", "OptimizerBuilder", "ParameterGroup"},
    "d9d.loop.config": {
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
    },
    "d9d.loop.control": {
        "BaseTask",
        "BuildForwardInputsContext",
        "BuildForwardInputsResult",
        "ComputeLossContext",
        "ComputeLossResult",
        "CreateMetricsContext",
        "DatasetProvider",
        "DatasetSource",
        "InferenceTask",
        "InitializeDatasetContext",
        "InitializeDatasetResult",
        "InitializeLRSchedulerContext",
        "InitializeModelStageContext",
        "InitializeModelStageResult",
        "InitializeOptimizerContext",
        "LRSchedulerProvider",
        "ModelProvider",
        "ModelSource",
        "OptimizerProvider",
        "ParallelizeModelStageContext",
        "ProcessOutputsContext",
        "RegisterModelEventsContext",
        "RegisterTaskEventsContext",
        "TrainTask",
    },
    "d9d.loop.event": {"Event", "EventBus", "subscribe", "subscribe_annotated"},
    "d9d.loop.event.catalogue.common": {
        "EventConfigurationStartedContext",
        "EventDataLoaderReadyContext",
        "EventModelStagesReadyContext",
        "EventStepContext",
    },
    "d9d.loop.event.catalogue.inference": {
        "EVENT_INFERENCE_CONFIG_STARTED",
        "EVENT_INFERENCE_DATA_LOADER_READY",
        "EVENT_INFERENCE_FINISHED",
        "EVENT_INFERENCE_FORWARD_POST",
        "EVENT_INFERENCE_FORWARD_PRE",
        "EVENT_INFERENCE_MODEL_STAGES_READY",
        "EVENT_INFERENCE_READY",
        "EVENT_INFERENCE_STEP_POST",
        "EVENT_INFERENCE_STEP_PRE",
        "EventConfigurationStartedContext",
        "EventDataLoaderReadyContext",
        "EventInferenceFinishedContext",
        "EventInferenceReadyContext",
        "EventModelStagesReadyContext",
        "EventStepContext",
    },
    "d9d.loop.event.catalogue.train": {
        "EVENT_TRAIN_CONFIG_STARTED",
        "EVENT_TRAIN_DATA_LOADER_READY",
        "EVENT_TRAIN_FINISHED",
        "EVENT_TRAIN_FORWARD_BACKWARD_POST",
        "EVENT_TRAIN_FORWARD_BACKWARD_PRE",
        "EVENT_TRAIN_LR_SCHEDULER_READY",
        "EVENT_TRAIN_MODEL_STAGES_READY",
        "EVENT_TRAIN_OPTIMIZER_READY",
        "EVENT_TRAIN_OPTIMIZER_STEP_POST",
        "EVENT_TRAIN_OPTIMIZER_STEP_PRE",
        "EVENT_TRAIN_READY",
        "EVENT_TRAIN_STEP_POST",
        "EVENT_TRAIN_STEP_PRE",
        "EventConfigurationStartedContext",
        "EventDataLoaderReadyContext",
        "EventLRSchedulerReadyContext",
        "EventModelStagesReadyContext",
        "EventOptimizerReadyContext",
        "EventStepContext",
        "EventTrainFinishedContext",
        "EventTrainReadyContext",
    },
    "d9d.loop.run": {"Inference", "InferenceConfigurator", "Trainer", "TrainingConfigurator", "launch"},
}


@pytest.mark.parametrize("module", PUBLIC_NAMES)
def test_a_module_offers_just_these_names(module: str) -> None:
    """Each once, sorted, and there."""
    loaded = importlib.import_module(module)

    assert set(loaded.__all__) == PUBLIC_NAMES[module]
    assert list(loaded.__all__) == sorted(PUBLIC_NAMES[module])
    assert all(hasattr(loaded, name) for name in loaded.__all__)


@pytest.mark.parametrize("module", ["d9d", "d9d.loop"])
def test_the_packages_above_offer_nothing(module: str) -> None:
    """They stay empty, so that importing one part loads no other."""
    assert not hasattr(importlib.import_module(module), "__all__")
