"""Inference with the model of the layouts; the last step is not full."""

import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from layout_job import LAYOUTS, QUIET, Provider, Samples

from d9d.core.dist_context import DeviceMeshParameters
from d9d.loop.config import InferenceConfig, PipelineConfig
from d9d.loop.control import (
    BuildForwardInputsContext,
    BuildForwardInputsResult,
    InferenceTask,
    InitializeDatasetContext,
    InitializeDatasetResult,
    ProcessOutputsContext,
    RegisterTaskEventsContext,
)
from d9d.loop.event import Event
from d9d.loop.event.catalogue import inference
from d9d.loop.run import InferenceConfigurator

NUM_SAMPLES = 37
GLOBAL_BATCH_SIZE = 8
NUM_STEPS = 5


@dataclasses.dataclass(frozen=True)
class Found:
    """What one process recorded of a run.

    Attributes:
        logits: The logits [class] of each sample, in the order in which the task got them.
        samples: The indices of those samples.
        targets: Their classes, as the batches had them.
        trace: The ids of all events.
    """

    logits: list[torch.Tensor]
    samples: list[int]
    targets: list[int]
    trace: list[str]


class CollectTask(InferenceTask):
    """Keeps all outputs."""

    def __init__(self) -> None:
        self.found = Found([], [], [], [])

    def register_events(self, ctx: RegisterTaskEventsContext) -> None:
        for name in inference.__all__:
            if isinstance(event := getattr(inference, name), Event):
                ctx.event_bus.subscribe(event, self._noting(event.id))

    def _noting(self, event_id: str) -> Callable[[object], None]:
        return lambda ctx: self.found.trace.append(event_id)

    def build_forward_inputs(self, ctx: BuildForwardInputsContext) -> BuildForwardInputsResult:
        return BuildForwardInputsResult(inputs={"features": ctx.batch["features"]})

    def process_outputs(self, ctx: ProcessOutputsContext) -> None:
        self.found.logits.extend(ctx.outputs.clone())
        self.found.samples.extend(ctx.samples)
        self.found.targets.extend(ctx.batch["class"].tolist())


def provide_samples(ctx: InitializeDatasetContext) -> InitializeDatasetResult:
    """Provide the data."""
    return InitializeDatasetResult(dataset=Samples(NUM_SAMPLES))


def infer_in(name: str, num_ranks: int, **settings: Any) -> Found:
    """Run inference in a layout, as one of its processes."""
    layout, task = LAYOUTS[name], CollectTask()
    InferenceConfigurator(
        config=InferenceConfig(
            **{"global_batch_size": GLOBAL_BATCH_SIZE, "micro_batch_size": 2, "reporting": QUIET, **settings},
            device="cpu",
            mesh=DeviceMeshParameters() if num_ranks == 1 else layout.mesh[num_ranks],
            pipeline=PipelineConfig.model_validate({"schedule": layout.schedule}),
        ),
        task=task,
        model_provider=Provider(layout),
        dataset_provider=provide_samples,
    ).configure().infer()
    return task.found
