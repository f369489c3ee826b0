"""The data of a run, as this process reads it."""

import dataclasses
from typing import Any

from torch.utils.data import DataLoader, IterableDataset

from d9d.core.dist_context import DistributedContext
from d9d.core.stepper import Stepper
from d9d.loop.component.data.batch_sampler import DataShare, SequentialBatchSampler, ShufflingBatchSampler
from d9d.loop.component.data.data_loader import TrainingData, build_data_loader, count_samples, load_iterable_data
from d9d.loop.component.provided import expect_result
from d9d.loop.config import InferenceConfig, TrainingConfig
from d9d.loop.control import DatasetProvider, InitializeDatasetContext, InitializeDatasetResult


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
