"""Inference, assembled."""

from collections.abc import Sequence
from typing import Any

from torch import nn
from torch.utils.data import DataLoader

from d9d.core.dist_context import DistributedContext
from d9d.core.stepper import Stepper
from d9d.loop.component.batch_sampler import SequentialBatchSampler
from d9d.loop.component.checkpoint import Checkpoint
from d9d.loop.component.checkpointer import Checkpointer
from d9d.loop.component.data_loader import build_data_loader, count_samples
from d9d.loop.component.model_stage import ModelStage, build_model_stage
from d9d.loop.component.model_state import describe_model
from d9d.loop.component.progress import ProgressReporter
from d9d.loop.component.provided import expect_result
from d9d.loop.component.random_state import RandomState
from d9d.loop.component.ranks import Ranks
from d9d.loop.component.source_checkpoint import find_source
from d9d.loop.config import InferenceConfig
from d9d.loop.control import (
    DatasetProvider,
    InferenceTask,
    InitializeDatasetContext,
    InitializeDatasetResult,
    ModelProvider,
)
from d9d.loop.event import EventBus
from d9d.loop.event.catalogue.inference import (
    EVENT_INFERENCE_CONFIG_STARTED,
    EVENT_INFERENCE_DATA_LOADER_READY,
    EVENT_INFERENCE_MODEL_STAGES_READY,
    EventConfigurationStartedContext,
    EventDataLoaderReadyContext,
    EventModelStagesReadyContext,
)
from d9d.loop.run.inference import Inference
from d9d.loop.run.start import start_run
from d9d.loop.state import inference_state


class InferenceConfigurator:
    """Assembles an inference run, in the order in which the events of its configuration are declared.

    Args:
        config: Every setting that is a number, a name or a path.
        task: Uses the outputs of the model.
        model_provider: Brings the model.
        dataset_provider: Brings the data, which is run through once and in order.
    """

    def __init__(
        self,
        *,
        config: InferenceConfig,
        task: InferenceTask,
        model_provider: ModelProvider,
        dataset_provider: DatasetProvider,
    ) -> None:
        self._config = config
        self._task = task
        self._model_provider = model_provider
        self._dataset_provider = dataset_provider

    def configure(self) -> Inference:
        """Build everything that inference needs.

        Returns:
            The inference, which has not loaded its weights yet.

        Raises:
            CheckpointError: If the source of the weights cannot be loaded; the model is not built then.
            ConfigurationError: If the data does not suit the configuration; the model is not built then.
        """
        config = self._config
        bus = EventBus()
        dist_context, random_state = start_run(bus, config, self._task, self._model_provider)
        ranks = Ranks.of(dist_context)
        source = None if config.source_checkpoint is None else find_source(config.source_checkpoint, ranks)
        bus.trigger(EVENT_INFERENCE_CONFIG_STARTED, EventConfigurationStartedContext(dist_context=dist_context))
        data_loader, num_samples, stepper = self._build_data_loader(dist_context)
        bus.trigger(EVENT_INFERENCE_DATA_LOADER_READY, EventDataLoaderReadyContext(data_loader=data_loader))
        model = build_model_stage(self._model_provider, dist_context)
        bus.trigger(EVENT_INFERENCE_MODEL_STAGES_READY, EventModelStagesReadyContext(modules=[model]))

        return Inference(
            event_bus=bus,
            stepper=stepper,
            task=self._task,
            data_loader=data_loader,
            model=model,
            num_micro_batches=config.num_micro_batches,
            model_stage=ModelStage(
                model=model, task=self._task, stepper=stepper, config=config, device=dist_context.device
            ),
            progress=ProgressReporter("infer", config.reporting, stepper),
            source=source,
            ranks=ranks,
            random_state=random_state,
            checkpointer=self._build_checkpointer(
                num_samples, source, dist_context, stepper=stepper, modules=[model], random=random_state
            ),
        )

    def _build_data_loader(self, dist_context: DistributedContext) -> tuple[DataLoader[Any], int, Stepper]:
        config = self._config
        data = expect_result(
            self._dataset_provider(InitializeDatasetContext(dist_context=dist_context)),
            InitializeDatasetResult,
            self._dataset_provider,
        )
        num_samples = count_samples(data)
        stepper = Stepper(SequentialBatchSampler.num_steps(num_samples, config.global_batch_size))
        sampler = SequentialBatchSampler(
            num_samples=num_samples,
            global_batch_size=config.global_batch_size,
            micro_batch_size=config.samples_per_micro_batch,
            stepper=stepper,
        )
        return build_data_loader(data, sampler, config, dist_context.device), num_samples, stepper

    def _build_checkpointer(
        self,
        num_samples: int,
        source: Checkpoint | None,
        dist_context: DistributedContext,
        *,
        stepper: Stepper,
        modules: Sequence[nn.Module],
        random: RandomState,
    ) -> Checkpointer:
        config = self._config
        ranks = Ranks.of(dist_context)
        state = inference_state(ranks, stepper=stepper, task=self._task, random=random)
        settings = {
            "loop": "inference",
            "global_batch_size": config.global_batch_size,
            "micro_batch_size": config.samples_per_micro_batch,
            "seed": config.seed,
            "precision": config.precision,
            "num_samples": num_samples,
            # Outputs of two sets of weights must not mix in one run.
            "source_checkpoint": None if source is None else f"{source.path.name} ({source.manifest()['id']})",
            **(describe_model(modules, ranks) if config.checkpointing is not None else {}),
        }
        if config.checkpointing is not None:
            state.describe()  # state that cannot be kept is refused now, not at the first save
        return Checkpointer(
            config.checkpointing,
            stepper=stepper,
            state=state,
            settings=settings,
            ranks=ranks,
            notes={"mesh": dist_context.mesh_parameters.model_dump()},
        )
