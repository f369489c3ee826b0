"""Inference, assembled."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from torch import nn

from d9d.core.dist_context import DistributedContext
from d9d.core.protocol import Stateful
from d9d.core.stepper import Stepper
from d9d.loop.component.checkpoint.checkpointer import Checkpointer
from d9d.loop.component.checkpoint.job_description import describe_job
from d9d.loop.component.checkpoint.model_state import describe_model
from d9d.loop.component.data.device_transfer import DeviceTransfer
from d9d.loop.component.ending.interruption import Interruption
from d9d.loop.component.garbage_collector import GarbageCollector
from d9d.loop.component.profiler import Profiler
from d9d.loop.component.random_state import RandomState
from d9d.loop.component.ranks import Ranks
from d9d.loop.component.report.reporting import build_reporter
from d9d.loop.config import InferenceConfig
from d9d.loop.control import (
    DatasetProvider,
    InferenceTask,
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
from d9d.loop.run.data import build_inference_data
from d9d.loop.run.inference import Inference
from d9d.loop.run.model import build_runner, build_stages
from d9d.loop.run.source import find_source, identify
from d9d.loop.run.start import seed_apart, start_run
from d9d.loop.state import find_participants, inference_state

if TYPE_CHECKING:
    from d9d.loop.component.checkpoint.source_checkpoint import WeightSource


class InferenceConfigurator:
    """Assembles an inference run, in the order in which the events of its configuration are declared.

    Args:
        config: Every setting that is a number, a name or a path.
        task: Uses the outputs of the model.
        model_provider: Brings the model.
        dataset_provider: Brings the data, which is run through once and in order.
        stateful: Anything else whose state belongs into checkpoints, by name. Providers, and objects whose methods
            listen to events, need not be named: those that have a `state_dict` and a `load_state_dict` take part.
    """

    def __init__(
        self,
        *,
        config: InferenceConfig,
        task: InferenceTask,
        model_provider: ModelProvider,
        dataset_provider: DatasetProvider,
        stateful: Mapping[str, Stateful] | None = None,
    ) -> None:
        self._config = config
        self._task = task
        self._model_provider = model_provider
        self._dataset_provider = dataset_provider
        self._stateful = stateful or {}

    def configure(self) -> Inference:
        """Build everything that inference needs.

        Returns:
            The inference, which has not loaded its weights yet.

        Raises:
            CheckpointError: If the source of the weights cannot be loaded; the model is not built then.
            ConfigurationError: If the data does not suit the configuration; the model is not built then.
        """
        config, bus = self._config, EventBus()
        dist_context, random_state = start_run(bus, config, self._task, self._model_provider)
        ranks = Ranks.of(dist_context)
        source = find_source(config, ranks)
        bus.trigger(EVENT_INFERENCE_CONFIG_STARTED, EventConfigurationStartedContext(dist_context=dist_context))
        data = build_inference_data(self._dataset_provider, config, dist_context)
        stepper, num_samples = data.stepper, data.num_samples
        reporter = build_reporter(
            "infer", config, task=self._task, stepper=stepper, dist_context=dist_context, num_samples=num_samples
        )
        bus.trigger(EVENT_INFERENCE_DATA_LOADER_READY, EventDataLoaderReadyContext(data_loader=data.loader))
        profiler = Profiler(config.profiling, dist_context, stepper)
        stages = build_stages(self._model_provider, config, dist_context)
        modules = [stage.module for stage in stages]
        bus.trigger(EVENT_INFERENCE_MODEL_STAGES_READY, EventModelStagesReadyContext(modules=modules))
        seed_apart(random_state, config, dist_context)
        return Inference(
            event_bus=bus,
            stepper=stepper,
            task=self._task,
            batch_sampler=data.sampler,
            data_loader=data.loader,
            device_transfer=DeviceTransfer(dist_context.device),
            modules=modules,
            model_runner=build_runner(
                stages, config=config, task=self._task, stepper=stepper, dist_context=dist_context
            ),
            reporter=reporter,
            source=source,
            ranks=ranks,
            random_state=random_state,
            garbage_collector=GarbageCollector(config.garbage_collection_period_steps, stepper),
            profiler=profiler,
            interruption=Interruption(dist_context, stepper, config.timeouts),
            checkpointer=self._build_checkpointer(
                num_samples, source, dist_context, bus=bus, stepper=stepper, modules=modules, random=random_state
            ),
        )

    def _build_checkpointer(
        self,
        num_samples: int,
        source: "WeightSource | None",
        dist_context: DistributedContext,
        *,
        bus: EventBus,
        stepper: Stepper,
        modules: Sequence[nn.Module],
        random: RandomState,
    ) -> Checkpointer:
        config = self._config
        ranks = Ranks.of(dist_context)
        participants = self._find_participants(bus, modules, ranks)
        state = inference_state(ranks, stepper=stepper, task=self._task, random=random, participants=participants)
        settings = {
            "loop": "inference",
            "global_batch_size": config.global_batch_size,
            "micro_batch_size": config.samples_per_micro_batch,
            "seed": config.seed,
            "precision": config.precision,
            "num_samples": num_samples,
            # Outputs of two sets of weights must not mix in one run.
            "source_checkpoint": identify(source),
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
            notes=describe_job(config),
        )

    def _find_participants(self, bus: EventBus, modules: Sequence[nn.Module], ranks: Ranks) -> dict[str, Stateful]:
        if self._config.checkpointing is None:
            return {}
        providers = {"model_provider": self._model_provider, "dataset_provider": self._dataset_provider}
        return find_participants(
            providers, self._stateful, bus.subscribers, others=[self._task], modules=modules, ranks=ranks
        )
