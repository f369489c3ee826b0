"""Assembling a run: what training and inference configurators share."""

import dataclasses
import datetime as dt
from collections.abc import Sequence
from typing import Any

from torch import nn
from torch.utils.data import DataLoader, IterableDataset

from d9d.core.dist_context import DistributedContext
from d9d.core.seed import derive_seed
from d9d.core.stepper import Stepper
from d9d.loop.component.checkpoint import export
from d9d.loop.component.checkpoint.export import WeightSource
from d9d.loop.component.checkpoint.storage import Checkpoint, prepare_folder
from d9d.loop.component.data import TrainingData, build_data_loader, count_samples, load_iterable_data
from d9d.loop.component.model import (
    ForwardPrecision,
    ModelInputs,
    ModelRunner,
    ModelStage,
    WholeModelRunner,
    build_model_stage,
    require_own_names,
    require_synchronized,
)
from d9d.loop.component.pipeline import PipelineRunner
from d9d.loop.component.random_state import RandomState
from d9d.loop.component.ranks import Ranks
from d9d.loop.component.sampler import DataShare, SequentialBatchSampler, ShufflingBatchSampler
from d9d.loop.component.weight_init import initialize_weights
from d9d.loop.config import ConfigurationError, InferenceConfig, LoopConfig, TrainingConfig
from d9d.loop.control import (
    BaseTask,
    DatasetProvider,
    InitializeDatasetContext,
    InitializeDatasetResult,
    ModelProvider,
    RegisterModelEventsContext,
    RegisterTaskEventsContext,
)
from d9d.loop.control.provider import expect_result
from d9d.loop.event import EventBus


def start_run(
    bus: EventBus, config: LoopConfig, task: BaseTask, model_provider: ModelProvider
) -> tuple[DistributedContext, RandomState]:
    """Have everyone subscribe, and initialise the process.

    Args:
        bus: The bus of the run, before its first event.
        config: Names the device, the seed and the folder of checkpoints.
        task: Subscribes first.
        model_provider: Subscribes second.

    Returns:
        The process, and its random number generators, which are seeded.

    Raises:
        ConfigurationError: If the task cannot be one, or checkpoints could not be written.
        RuntimeError: If the device is not there.
    """
    if isinstance(task, nn.Module):
        raise ConfigurationError(
            f"the task, a {type(task).__qualname__}, is a torch module as well, and its weights would be neither moved "
            "nor trained: put them into the model, or keep the module in an attribute"
        )
    if config.checkpointing is not None:
        prepare_folder(config.checkpointing.folder)
    task.register_events(RegisterTaskEventsContext(event_bus=bus))
    model_provider.register_events(RegisterModelEventsContext(event_bus=bus))
    dist_context = DistributedContext.start(
        config.device, config.mesh, dt.timedelta(seconds=config.timeouts.start_seconds)
    )
    random_state = RandomState(dist_context.device)
    random_state.seed(config.seed)
    return dist_context, random_state


def seed_apart(random_state: RandomState, config: LoopConfig, dist_context: DistributedContext) -> None:
    """Have processes with other samples or other layers draw other random numbers from here on.

    Until then all draw the same, so that they make the same data and the same weights. Processes that divide matrices
    keep the same, since they have the same activations.

    Args:
        random_state: The random number generators of this process.
        config: Holds the seed.
        dist_context: Says which process this is. A process alone goes on from where it is.
    """
    if dist_context.world_size > 1:
        place = dist_context.mesh_for("loss").get_local_rank("loss")
        random_state.seed(derive_seed(config.seed, "process", place))


@dataclasses.dataclass(frozen=True)
class InferenceData:
    """The data of an inference run.

    Attributes:
        loader: Yields one micro-batch after the other.
        sampler: Tells which samples each of them has.
        num_samples: How many samples there are, those of all processes together.
        stepper: Counts the steps that they take.
    """

    loader: DataLoader[Any]
    sampler: SequentialBatchSampler
    num_samples: int
    stepper: Stepper


def build_training_data(
    provider: DatasetProvider, config: TrainingConfig, dist_context: DistributedContext, stepper: Stepper
) -> TrainingData:
    """Build what training reads, in a new random order each epoch unless the data is iterable.

    Args:
        provider: Brings the dataset.
        config: Says how many samples go into a step, and holds the seed.
        dist_context: Says which share of them is this process's own.
        stepper: Knows the steps.

    Returns:
        The data.

    Raises:
        ConfigurationError: If the data does not suit the configuration.
    """
    provided = _provide(provider, dist_context)
    if isinstance(provided.dataset, IterableDataset):
        return load_iterable_data(provided, config, dist_context)
    num_samples = count_samples(provided)
    sampler = ShufflingBatchSampler(
        num_samples=num_samples,
        global_batch_size=config.global_batch_size,
        micro_batch_size=config.samples_per_micro_batch,
        seed=config.seed,
        stepper=stepper,
        share=_share(dist_context),
    )
    loader = build_data_loader(provided, sampler, config, dist_context.device)
    return TrainingData(loader, {"num_samples": num_samples})


def build_inference_data(
    provider: DatasetProvider, config: InferenceConfig, dist_context: DistributedContext
) -> InferenceData:
    """Build what inference reads, once and in order.

    Args:
        provider: Brings the dataset.
        config: Says how many samples go into a step.
        dist_context: Says which share of them is this process's own.

    Returns:
        The data.

    Raises:
        ConfigurationError: If the data does not suit the configuration.
    """
    provided = _provide(provider, dist_context)
    num_samples = count_samples(provided)
    stepper = Stepper(SequentialBatchSampler.num_steps(num_samples, config.global_batch_size))
    sampler = SequentialBatchSampler(
        num_samples=num_samples,
        global_batch_size=config.global_batch_size,
        micro_batch_size=config.samples_per_micro_batch,
        stepper=stepper,
        share=_share(dist_context),
    )
    loader = build_data_loader(provided, sampler, config, dist_context.device)
    return InferenceData(loader, sampler, num_samples, stepper)


def _provide(provider: DatasetProvider, dist_context: DistributedContext) -> InitializeDatasetResult:
    result = provider(InitializeDatasetContext(dist_context=dist_context))
    return expect_result(result, InitializeDatasetResult, provider)


def _share(dist_context: DistributedContext) -> DataShare:
    return DataShare(dist_context.data_parallel_rank, dist_context.mesh_parameters.data_parallel_size)


def build_stages(provider: ModelProvider, config: LoopConfig, dist_context: DistributedContext) -> list[ModelStage]:
    """Build all stages of the model that this process holds.

    Args:
        provider: Brings them.
        config: Says how the model is cut.
        dist_context: Says where they run.

    Returns:
        The stages, in the order of the pipeline.

    Raises:
        ConfigurationError: On all processes, if a weight cannot be initialised, two stages name a weight alike, or
            gradients would not be added up over processes.
    """
    positions = config.pipeline.stages_of(dist_context.pipeline_rank, config.mesh.pipeline_parallel)
    stages = [build_model_stage(provider, dist_context, position) for position in positions]
    modules = [stage.module for stage in stages]
    ranks = Ranks.of(dist_context)
    ranks.run_on_all_ranks(lambda: _initialize(modules, config, dist_context))
    require_synchronized(modules, dist_context, schedule=config.pipeline.schedule if len(modules) > 1 else None)
    require_own_names(stages, ranks)
    return stages


def build_runner(
    stages: Sequence[ModelStage],
    *,
    config: LoopConfig,
    task: BaseTask,
    stepper: Stepper,
    dist_context: DistributedContext,
) -> ModelRunner:
    """Build what runs the model.

    Args:
        stages: The stages of this process.
        config: Names the number format and the schedule.
        task: Chooses the inputs of the model.
        stepper: Knows the steps.
        dist_context: The processes that hold the other stages.

    Returns:
        The runner.
    """
    inputs = ModelInputs(task, stepper)
    precision = ForwardPrecision(config.precision, dist_context.device)
    if config.mesh.pipeline_parallel == 1:
        return WholeModelRunner(stages[0].module, inputs, precision, config.num_micro_batches)
    return PipelineRunner(stages, config=config, inputs=inputs, precision=precision, dist_context=dist_context)


def _initialize(modules: Sequence[nn.Module], config: LoopConfig, dist_context: DistributedContext) -> None:
    for module in modules:
        initialize_weights(module, device=dist_context.device, seed=config.seed)


def find_source(config: LoopConfig, ranks: Ranks) -> WeightSource | None:
    """Find the weights that a configuration names.

    Args:
        config: Names them, or none.
        ranks: The processes of the job, all of which call this.

    Returns:
        The weights, which are complete; `None` where none are named.

    Raises:
        CheckpointError: On all ranks, if they are not there.
    """
    if config.source_checkpoint is None:
        return None
    return export.find_source(config.source_checkpoint, ranks)


def find_initial_source(config: LoopConfig, ranks: Ranks) -> WeightSource | None:
    """Find the weights that a run begins with, unless it goes on from a checkpoint of its own.

    Args:
        config: Names them, or none, and the folder of the run's own checkpoints.
        ranks: The processes of the job, all of which call this.

    Returns:
        As `find_source`.

    Raises:
        CheckpointError: On all ranks, if they are needed and are not there.
    """
    own = config.checkpointing
    if own is not None and ranks.run_on_rank_zero(lambda: bool(Checkpoint.list_in(own.folder))):
        return None
    return find_source(config, ranks)


def load_source(source: WeightSource | None, modules: Sequence[nn.Module], ranks: Ranks) -> None:
    """Load weights, if there are any to load.

    Args:
        source: The weights.
        modules: The stages of the model that this process holds.
        ranks: The processes of the job, all of which call this.

    Raises:
        CheckpointError: On all ranks, if they are those of another model, or damaged.
    """
    if source is not None:
        export.load_weights(source, modules, ranks)


def identify(source: WeightSource | None) -> str | None:
    """Return what tells weights from all others, if there are any."""
    if source is None:
        return None
    return export.identify_source(source)
