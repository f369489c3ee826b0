"""Evaluations: the model on other data, between two steps of its training, which continues as if there were none."""

import dataclasses
import itertools
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from d9d.core.dist_context import DistributedContext
from d9d.core.metric import Metric, WeightedMeanMetric
from d9d.core.seed import derive_seed
from d9d.core.settings import ConfigurationError
from d9d.core.stepper import Stepper
from d9d.loop.component.data import DeviceTransfer, build_data_loader, count_samples
from d9d.loop.component.model import ModelRunner, evaluation_mode
from d9d.loop.component.random_state import RandomState
from d9d.loop.component.ranks import Ranks
from d9d.loop.component.reporting import MetricExchange, Reporter, create_task_metrics
from d9d.loop.component.sampler import DataShare, Epochs, SequentialBatchSampler, SequentialSteps
from d9d.loop.component.sinks import RESERVED_NAMES
from d9d.loop.config import TrainingConfig
from d9d.loop.control import (
    BaseTask,
    ComputeLossContext,
    InferenceTask,
    InitializeDatasetResult,
    ProcessOutputsContext,
    TrainTask,
)
from d9d.loop.control.provider import DatasetSource, as_dataset_provider
from d9d.loop.control.task import as_loss_result

_LOSS = "loss"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Data on which a model is evaluated while it is trained, and when.

    Attributes:
        dataset_provider: Provides the data, which is read once and in order; may be a dataset or a list of samples. It
            must have a length.
        period_steps: The number of steps between two evaluations. `None`, the default, does not count steps.
        period_epochs: The number of passes over the training data between two evaluations: one is due after the step
            that takes the last sample of such a pass. `None`, the default, does not count passes.
        at_start: Whether to evaluate before the first step of the run. By default not.
        at_end: Whether to evaluate after the last step, and when a handler has stopped the run. True by default.
        task: What to compute. By default it is the mean loss of the training task, weighted as in training, and the
            metrics of that task. Another `TrainTask` computes its own loss and metrics; an `InferenceTask` gets the
            outputs of the model, and its metrics are the result.
        max_steps: The largest number of global batches to read. `None`, the default, reads all data.

    Raises:
        ConfigurationError: If a number is less than 1.
        TypeError: If the data or the task is nothing that this accepts.
    """

    dataset_provider: DatasetSource
    period_steps: int | None = None
    period_epochs: int | None = None
    at_start: bool = False
    at_end: bool = True
    task: TrainTask | InferenceTask | None = None
    max_steps: int | None = None

    def __post_init__(self) -> None:
        as_dataset_provider(self.dataset_provider)
        for name, meaning in (("period_steps", "never"), ("period_epochs", "never"), ("max_steps", "all data")):
            number: object = getattr(self, name)
            if number is not None and (not isinstance(number, int) or isinstance(number, bool) or number < 1):
                raise ConfigurationError(f"{name} is {number!r}: use a whole number from 1, or None for {meaning}")
        if not isinstance(self.task, TrainTask | InferenceTask | None):
            raise TypeError(f"task is a {type(self.task).__qualname__}: pass a TrainTask or an InferenceTask")


def require_evaluations(evaluations: Mapping[str, Evaluation]) -> None:
    """Check the names and the types of the evaluations of a run.

    Args:
        evaluations: The evaluations by name.

    Raises:
        ConfigurationError: If a name cannot begin the names of reported numbers.
        TypeError: If anything in the mapping is no evaluation.
    """
    for name, evaluation in evaluations.items():
        if not _is_name(name):
            raise ConfigurationError(
                f"evaluations has an evaluation named {name!r}, and its results are reported as <name>/<number>: "
                f"choose a name that is not empty, has no slash, and is none of {', '.join(sorted(RESERVED_NAMES))}"
            )
        if not isinstance(evaluation, Evaluation):
            raise TypeError(
                f"evaluations[{name!r}] is a {type(evaluation).__qualname__}: pass Evaluation(dataset_provider=...)"
            )


def _is_name(name: object) -> bool:
    return isinstance(name, str) and name != "" and "/" not in name and name not in RESERVED_NAMES


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Prepared:
    """An evaluation with its data and metrics.

    Attributes:
        settings: What the user gave.
        task: Computes the results.
        data: What the dataset provider returned.
        num_steps: How many global batches are read.
        num_samples: How many samples the data has.
        loss: The mean loss; `None` for an `InferenceTask`.
        metrics: Reduces the loss and the metrics of the task.
    """

    settings: Evaluation
    task: BaseTask
    data: InitializeDatasetResult
    num_samples: int
    num_steps: int
    loss: WeightedMeanMetric | None
    metrics: MetricExchange


class Evaluator:
    """Runs the evaluations of a training run, and knows when each is due.

    An evaluation changes nothing that training depends on: the mode of each module, whether gradients are recorded, the
    random number generators, the position in the training data, and what the metrics of the training task and of
    subscribers have counted are afterwards as they were before, also if it fails. It runs each model with the
    micro-batch size of training.

    Args:
        evaluations: The evaluations by name.
        provide: Calls the dataset provider of an evaluation.
        task: The training task.
        config: Holds the sizes of batches and the seed.
        reporter: Holds the metrics of the training task.
        stepper: Counts the steps of the training.
        epochs: The passes over the training data; `None` for iterable data.
        random_state: The random number generators of this process.
        dist_context: The processes of the job.
        share: Which part of each global batch this process reads.

    Raises:
        ConfigurationError: On all ranks, if the data or the metrics of an evaluation do not suit the run.
    """

    def __init__(
        self,
        evaluations: Mapping[str, Evaluation],
        *,
        provide: Callable[[DatasetSource], InitializeDatasetResult],
        task: TrainTask,
        config: TrainingConfig,
        reporter: Reporter,
        stepper: Stepper,
        epochs: Epochs | None,
        random_state: RandomState,
        dist_context: DistributedContext,
        share: DataShare,
    ) -> None:
        self._config = config
        self._reporter = reporter
        self._stepper = stepper
        self._epochs = epochs
        self._random_state = random_state
        self._dist_context = dist_context
        self._share = share
        self._device_transfer = DeviceTransfer(dist_context.device)
        self._evaluations: dict[str, _Prepared] = {}
        metrics_of_tasks: dict[int, Mapping[str, Metric]] = {id(task): reporter.task_metrics}
        # Otherwise what user code draws here would change the initial weights.
        with random_state.preserved():
            for name, evaluation in evaluations.items():
                _require_own_name(name, reporter.metric_names)
                if evaluation.period_epochs is not None and epochs is None:
                    raise ConfigurationError(
                        f"evaluations[{name!r}] has period_epochs={evaluation.period_epochs}, and the training data "
                        "is iterable, so it has no epochs: use period_steps"
                    )
                own = evaluation.task or task
                if id(own) not in metrics_of_tasks:
                    metrics_of_tasks[id(own)] = create_task_metrics(own, dist_context)
                data = provide(evaluation.dataset_provider)
                self._evaluations[name] = self._prepare(evaluation, own, metrics_of_tasks[id(own)], data, name)

    def _prepare(
        self,
        evaluation: Evaluation,
        task: BaseTask,
        metrics: Mapping[str, Metric],
        data: InitializeDatasetResult,
        name: str,
    ) -> _Prepared:
        num_samples = count_samples(data, f"evaluations[{name!r}]")
        num_steps = SequentialSteps(num_samples, self._config.global_batch_size).num_steps
        loss = WeightedMeanMetric(self._dist_context.device) if isinstance(task, TrainTask) else None
        return _Prepared(
            settings=evaluation,
            task=task,
            data=data,
            num_samples=num_samples,
            num_steps=num_steps if evaluation.max_steps is None else min(num_steps, evaluation.max_steps),
            loss=loss,
            metrics=MetricExchange(metrics if loss is None else {_LOSS: loss, **metrics}, self._dist_context),
        )

    @property
    def names(self) -> list[str]:
        """The names of the evaluations, in the order in which they run."""
        return list(self._evaluations)

    def due_at_start(self) -> list[str]:
        """Return the names of the evaluations that are due before the first step of a run."""
        return [name for name, prepared in self._evaluations.items() if prepared.settings.at_start]

    def due_after_step(self, requested: Collection[str] = (), *, is_over: bool) -> list[str]:
        """Return the names of the evaluations that are due after the step that was just completed.

        Args:
            requested: Those that handlers have asked for.
            is_over: Whether this was the last step of the run.
        """
        return [
            name
            for name, prepared in self._evaluations.items()
            if name in requested or self._is_due(prepared.settings, is_over=is_over)
        ]

    def _is_due(self, evaluation: Evaluation, *, is_over: bool) -> bool:
        num_steps = self._stepper.current_step
        if is_over and evaluation.at_end:
            return True
        if evaluation.period_steps is not None and num_steps % evaluation.period_steps == 0:
            return True
        epochs, period = self._epochs, evaluation.period_epochs
        return epochs is not None and period is not None and epochs.is_due(period, num_steps - 1)

    def evaluate(self, name: str, runner: ModelRunner, modules: Sequence[nn.Module], ranks: Ranks) -> dict[str, float]:
        """Run an evaluation; all ranks call this.

        Args:
            name: Its name.
            runner: Runs the model.
            modules: The stages of the model that this process holds.
            ranks: All ranks.

        Returns:
            The results by name, the same on all ranks.
        """
        prepared = self._evaluations[name]
        place = 0
        if self._dist_context.world_size > 1:
            place = self._dist_context.mesh_for("loss").get_local_rank("loss")
        # Whatever the task: it may delegate to the training task, and hooks of the model count too.
        with self._random_state.preserved(), evaluation_mode(modules), self._reporter.metrics_set_aside():
            # The same numbers in each evaluation: what it draws makes no difference between two of them.
            self._random_state.seed(derive_seed(self._config.seed, "evaluation", name, place))
            with torch.no_grad():
                self._run(name, prepared, runner)
            results = _reduce(prepared.metrics)
        # Ranks that hold copies of a sample may differ in the last bits.
        return ranks.run_on_rank_zero(lambda: results)

    def _run(self, name: str, prepared: _Prepared, runner: ModelRunner) -> None:
        """Run the model over the data, and count the results in the metrics."""
        config = self._config
        sampler = SequentialBatchSampler(
            SequentialSteps(prepared.num_samples, config.global_batch_size),
            micro_batch_size=config.samples_per_micro_batch,
            stepper=Stepper(prepared.num_steps),
            share=self._share,
        )
        loader = build_data_loader(prepared.data, sampler, config, self._dist_context.device)
        micro_batches = iter(loader)
        for step in range(prepared.num_steps):
            samples = sampler.micro_batches(step)

            def use_outputs(number: int, batch: Any, outputs: Any, samples: Any = samples) -> None:
                # A repeated micro-batch ran only to keep this process in step: another process counts it.
                if not samples[number].is_repeated:
                    self._use_outputs(name, prepared, batch, outputs, samples[number])

            runner.forward(
                self._device_transfer.move(itertools.islice(micro_batches, len(samples))),
                [len(own) for own in samples],
                use_outputs,
                task=prepared.task,
                is_within_training=True,
            )

    def _use_outputs(self, name: str, prepared: _Prepared, batch: Any, outputs: Any, samples: Sequence[int]) -> None:
        task = prepared.task
        if isinstance(task, InferenceTask):
            task.process_outputs(
                ProcessOutputsContext(outputs=outputs, batch=batch, stepper=self._stepper, samples=tuple(samples))
            )
        if not isinstance(task, TrainTask) or prepared.loss is None:
            return
        result = as_loss_result(
            task.compute_loss(ComputeLossContext(outputs=outputs, batch=batch, stepper=self._stepper, evaluation=name)),
            task.compute_loss,
        )
        if result.loss.ndim:
            raise ValueError(
                f"compute_loss returned a loss of shape {list(result.loss.shape)} in evaluation {name!r}: return a "
                "scalar, such as its mean"
            )
        prepared.loss.update(result.loss, result.loss_weight)


def _require_own_name(name: str, metrics: Collection[str]) -> None:
    """Refuse an evaluation whose results could be taken for a metric of the training."""
    clash = next((metric for metric in metrics if metric.split("/")[0] == name), None)
    if clash is not None:
        raise ConfigurationError(
            f"evaluations has an evaluation named {name!r}, and the training task or a subscriber has a metric named "
            f"{clash!r}: rename one of them, since the results of an evaluation are reported as <name>/<number>"
        )


def _reduce(metrics: MetricExchange) -> dict[str, float]:
    """Reduce metrics over all ranks, wait for the result, and reset the metrics."""
    packs, works = metrics.start()
    for work in works:
        work.wait()
    return dict(metrics.compute([pack.cpu() for pack in packs]))
