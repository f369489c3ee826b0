"""The frame that training and inference share: the order of start, steps and exit, and the services around them."""

import contextlib
import dataclasses
import gc
import itertools
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Any, Protocol, Self

from torch import nn
from torch.utils.data import DataLoader

from d9d.core.stepper import Stepper
from d9d.loop.component.best_effort import BestEffort
from d9d.loop.component.checkpoint.export import WeightSource, load_weights
from d9d.loop.component.checkpoint.manager import Checkpointer
from d9d.loop.component.data import DeviceTransfer, begin_reading
from d9d.loop.component.random_state import RandomState
from d9d.loop.component.ranks import Ranks
from d9d.loop.component.reporting import Reporter
from d9d.loop.component.shutdown import Shutdown
from d9d.loop.event import EventBus


class Service(Protocol):
    """Something that runs alongside the steps of a loop, such as the progress report or the checkpoints.

    `assembly.py` lists the services of a run. All ranks call each method at the same point.
    """

    def __enter__(self) -> object:
        """Start, before the first step."""

    def step_done(self) -> None:
        """Do what is due at a step boundary. The stepper has advanced: `current_step` steps are complete."""

    def __exit__(
        self, error_type: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None, /
    ) -> bool | None:
        """Stop, after the last step or an error."""


@dataclasses.dataclass(kw_only=True)
class Loop:
    """The frame around the steps of a run. As a context it lasts from the first step to the last.

    Attributes:
        event_bus: The bus of the run.
        stepper: Counts the steps.
        ranks: The processes of the job.
        modules: The stages of the model that this process holds, in pipeline order.
        source: The weights to start from; `None` keeps those that the model provider made.
        random_state: The random number generators of this process.
        data_loader: Yields one micro-batch after the other.
        device_transfer: Moves micro-batches to the device.
        shutdown: Ends the loop early on a stop signal, and publishes the cause of a failure.
        reporter: Reports the numbers of the run.
        checkpointer: Saves the state of the job and restores it.
        housekeeping: Further services that are configured, such as garbage collection and the profiler.
    """

    event_bus: EventBus
    stepper: Stepper
    ranks: Ranks
    modules: Sequence[nn.Module]
    source: WeightSource | None
    random_state: RandomState
    data_loader: DataLoader[Any]
    device_transfer: DeviceTransfer
    shutdown: Shutdown
    reporter: Reporter
    checkpointer: Checkpointer
    housekeeping: Sequence[Service] = ()

    def __post_init__(self) -> None:
        # In the order in which they start and in which each step boundary calls them.
        self._services: tuple[Service, ...] = (self.shutdown, self.reporter, self.checkpointer, *self.housekeeping)
        self._micro_batches: Iterator[Any] = iter(())
        self._exits = contextlib.ExitStack()

    def load_state(self, *, checkpoint_has_weights: bool) -> None:
        """Resume from the newest checkpoint of this run if there is one, and load the weights to start from if needed.

        Args:
            checkpoint_has_weights: Whether a checkpoint of this run holds the weights of the model.

        Raises:
            CheckpointError: On all ranks, if the run cannot resume from its checkpoints, or the weights cannot be
                loaded.
        """
        is_resumed = self.checkpointer.resume()
        if self.source is not None and not (is_resumed and checkpoint_has_weights):
            load_weights(self.source, self.modules, self.ranks)

    def __enter__(self) -> Self:
        """Start reading data, then start the services."""
        self._micro_batches = begin_reading(self.data_loader, self.stepper)
        with contextlib.ExitStack() as started:
            for service in self._services:
                started.enter_context(service)
            self._exits = started.pop_all()
        return self

    def __exit__(
        self, error_type: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool | None:
        """Stop the services, the last one first."""
        return self._exits.__exit__(error_type, error, traceback)

    def next_micro_batches(self, num_micro_batches: int) -> Iterator[Any]:
        """Return the micro-batches of a step; each is read and moved to the device when it is taken.

        Args:
            num_micro_batches: How many micro-batches the step has in this process.

        Raises:
            RuntimeError: From the iterator, if the data ends before the last step.
        """
        return self.device_transfer.move(itertools.islice(self._micro_batches, num_micro_batches))

    def step_done(self) -> None:
        """Complete a step: advance the stepper, let each service do what is due, and stop if the ranks agreed to.

        Raises:
            StopRequest: On all ranks, after a checkpoint, if a signal asked the job to stop.
        """
        self.stepper.advance()
        for service in self._services:
            service.step_done()
        self.shutdown.stop_if_due()


class Run:
    """What training and inference offer their users alike.

    Args:
        loop: The loop of the run.
    """

    def __init__(self, loop: Loop) -> None:
        self._loop = loop

    @property
    def event_bus(self) -> EventBus:
        """The bus that carries the events of the run."""
        return self._loop.event_bus

    @property
    def stepper(self) -> Stepper:
        """The stepper, which knows the current step and the number of steps."""
        return self._loop.stepper

    @property
    def modules(self) -> Sequence[nn.Module]:
        """The stages of the model that this process holds, in pipeline order: one, unless there is a pipeline."""
        return self._loop.modules

    def save(self) -> None:
        """Save a checkpoint, between two steps; all ranks call this. Does nothing if this step is saved already.

        A handler of `train.step.pre` or `inference.step.pre` runs between two steps. Later in a step, weights and step
        do not agree. With asynchronous checkpoints this returns when the state is copied.

        Raises:
            CheckpointError: On all ranks, if this checkpoint or the asynchronous one before cannot be written.
            StateError: On all ranks, if the state holds something that a checkpoint cannot keep.
            NonFiniteGradientsError: On all ranks, if `non_finite_gradients="stop"` has skipped a step.
        """
        self._loop.checkpointer.save()


class GarbageCollector:
    """Collects garbage after the same steps on all ranks, in place of Python's automatic collection.

    If each rank collected at a different time, all others would wait for it in their next collective operation. The
    first full collection comes after the first period, since before the first step it would delay every run, also the
    shortest, by a tenth of a second or more. It freezes what is left, so that later ones visit only newer objects.

    Args:
        period_steps: How often to collect, in steps.
        stepper: Counts the steps.
    """

    def __init__(self, period_steps: int, stepper: Stepper) -> None:
        self._period_steps = period_steps
        self._stepper = stepper
        self._guard = BestEffort("garbage collection", "memory may grow", stepper)

    def __enter__(self) -> Self:
        """Switch automatic collection off, and collect the young objects, such as those of building the run."""
        self._was_enabled, self._has_frozen, self._is_first = gc.isenabled(), False, True
        gc.disable()
        with self._guard:
            gc.collect(1)
        return self

    def __exit__(
        self, error_type: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Leave Python's collector as it was before."""
        if self._has_frozen:
            gc.unfreeze()
        if self._was_enabled:
            gc.enable()

    def step_done(self) -> None:
        """Collect if a period of steps is complete."""
        if self._stepper.current_step % self._period_steps != 0:
            return
        with self._guard:
            gc.collect()
            if self._is_first:
                self._is_first = False
                # Objects that others have frozen cannot be told from these, and would be unfrozen together with them.
                if gc.get_freeze_count() == 0:
                    gc.freeze()
                    self._has_frozen = True
