"""The frame that training and inference share: the order of start, steps and exit, and the services around them."""

import abc
import contextlib
import dataclasses
import functools
import gc
import itertools
import logging
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, ParamSpec, Protocol, Self, TypeVar

from torch import nn
from torch.utils.data import DataLoader

from d9d.core.loop_control import LoopControl
from d9d.core.marks import collective
from d9d.core.report import Report
from d9d.core.stepper import Stepper
from d9d.loop.component.best_effort import BestEffort
from d9d.loop.component.checkpoint.manager import Checkpointer
from d9d.loop.component.checkpoint.source import SourceWeights
from d9d.loop.component.checkpoint.storage import Checkpoint
from d9d.loop.component.data import DeviceTransfer, begin_reading
from d9d.loop.component.exchange import NO_FLAGS, Exchange, Flags
from d9d.loop.component.failure import closing, describe
from d9d.loop.component.random_state import RandomState
from d9d.loop.component.ranks import Ranks
from d9d.loop.component.reporting import Reporter
from d9d.loop.component.shutdown import STOPPED, Shutdown, StopRequest
from d9d.loop.config import TimeoutConfig
from d9d.loop.event import Event, EventBus
from d9d.loop.event.bus import Emitter
from d9d.loop.event.catalogue.common import (
    EventCheckpointContext,
    EventModelStagesReadyContext,
    EventReportReadyContext,
    EventStepContext,
)
from d9d.loop.event.handler import describe_handler

P = ParamSpec("P")
TContext = TypeVar("TContext")

logger = logging.getLogger(__name__)


class Service(Protocol):
    """Something that runs alongside the steps of a loop, such as the progress report or the checkpoints.

    `assembly.py` lists the services of a run. All ranks call each method at the same point.
    """

    def __enter__(self) -> object:
        """Start, before the first step."""

    def step_done(self) -> None:
        """Do what is due between two steps. The stepper has advanced: `current_step` steps are complete."""

    def __exit__(
        self, error_type: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None, /
    ) -> bool | None:
        """Stop, after the last step or an error."""


Outcome = Literal["finished", "stopped", "failed"]
"""How a run has ended: see `EVENT_TRAIN_CLOSED`."""


@dataclasses.dataclass(kw_only=True)
class Loop:
    """The frame around the steps of a run. As a context it lasts from the first step to the last.

    Attributes:
        moments: The events of the run.
        stepper: Counts the steps.
        control: Takes the requests of handlers.
        exchange: Combines the requests of all ranks.
        ranks: The processes of the job.
        modules: The stages of the model that this process holds, in pipeline order.
        source: The weights to start from; `None` keeps those that the model provider made, or the checkpoint has.
        random_state: The random number generators of this process.
        data_loader: Yields one micro-batch after the other.
        device_transfer: Moves micro-batches to the device.
        shutdown: Listens for stop signals.
        reporter: Gathers the numbers of the run.
        checkpointer: Saves the state of the job and restores it.
        housekeeping: Further services that are configured, such as garbage collection and the profiler.
    """

    moments: "Moments"
    stepper: Stepper
    control: LoopControl
    exchange: Exchange
    ranks: Ranks
    modules: Sequence[nn.Module]
    source: SourceWeights | None
    random_state: RandomState
    data_loader: DataLoader[Any]
    device_transfer: DeviceTransfer
    shutdown: Shutdown
    reporter: Reporter
    checkpointer: Checkpointer
    housekeeping: Sequence[Service] = ()

    def __post_init__(self) -> None:
        self._micro_batches: Iterator[Any] = iter(())
        self._exits = contextlib.ExitStack()

    def load_state(self) -> Checkpoint | None:
        """Load the weights to start from, if any, and resume from the newest checkpoint of this run if there is one.

        Returns:
            The checkpoint.

        Raises:
            CheckpointError: On all ranks, if the run cannot resume from its checkpoints, or the weights cannot be
                loaded.
        """
        self.load_source()
        return self.checkpointer.resume()

    def load_source(self) -> None:
        """Load the weights to start from, if any.

        Raises:
            CheckpointError: On all ranks, if they cannot be loaded.
        """
        if self.source is not None:
            self.source.load(self.modules, self.ranks)

    def __enter__(self) -> Self:
        """Start reading data, then start the services."""
        self._micro_batches = begin_reading(self.data_loader, self.stepper)
        services: list[contextlib.AbstractContextManager[object]] = [self.shutdown, self.reporter, self.checkpointer]
        with contextlib.ExitStack() as started:
            for service in (*services, *self.housekeeping, self.exchange):
                started.enter_context(service)
            self._exits = started.pop_all()
        return self

    def __exit__(
        self, error_type: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool | None:
        """Stop the services, the last one first."""
        if isinstance(error, (StopRequest, GeneratorExit)):  # the loop has ended between two steps
            self.exchange.read()
            return self._exits.__exit__(None, None, None)
        return self._exits.__exit__(error_type, error, traceback)

    def next_micro_batches(self, num_micro_batches: int) -> Iterator[Any]:
        """Return the micro-batches of a step; each is read and moved to the device when it is taken.

        Args:
            num_micro_batches: How many micro-batches the step has in this process.

        Raises:
            RuntimeError: From the iterator, if the data ends before the last step.
        """
        return self.device_transfer.move(itertools.islice(self._micro_batches, num_micro_batches))


class Moments(abc.ABC):
    """The events that training and inference both have, and the last one that the run has reached.

    Args:
        event_bus: The bus of the run.

    Attributes:
        event_bus: The bus of the run.
        last: The last event that the run has reached; `None` before the first.
        has_begun: Whether the run has begun, after its configuration.
    """

    model_stages_ready: Event[EventModelStagesReadyContext]
    ready: Event[Any]
    finished: Event[Any]
    step_pre: Event[EventStepContext]
    report_ready: Event[EventReportReadyContext]
    checkpoint_loaded: Event[EventCheckpointContext]
    checkpoint_started: Event[EventCheckpointContext]
    checkpoint_saved: Event[EventCheckpointContext]
    failed: Event[Any]
    closed: Event[Any]

    def __init__(self, event_bus: EventBus) -> None:
        self.event_bus = event_bus
        self.last: Event[Any] | None = None
        self.has_begun = False
        self._reached: set[str] = set()
        common = (self.report_ready, self.checkpoint_loaded, self.checkpoint_started, self.checkpoint_saved)
        self._emitters: dict[str, Emitter[Any]] = {
            event.id: event_bus.emitter(event) for event in (*common, self.failed, self.closed)
        }

    def trigger(
        self, event: Event[TContext], context: Callable[P, TContext], *args: P.args, **fields: P.kwargs
    ) -> None:
        """Trigger an event. Its context is built only if there is a handler.

        A list of modules is for reading: the loop has built on the modules in it, so replacing one would train nothing.
        Each handler gets a list of its own, and may not change it.

        Args:
            event: The event.
            context: The class of its context.
            *args: None; contexts have keyword arguments only.
            **fields: The fields of the context.

        Raises:
            RuntimeError: If a handler has changed the list of modules in its context.
        """
        self.last = event
        if event in (self.checkpoint_loaded, self.ready, self.finished, self.failed, self.closed):
            self._reached.add(event.id)
        emitter = self._emitters.get(event.id) or self._emitters.setdefault(event.id, self.event_bus.emitter(event))
        modules: Any = fields.get("modules")
        if modules is None:
            if emitter.handlers:
                emitter.call(context(*args, **fields))
            return
        for handler in emitter.handlers:
            fields["modules"] = given = [*modules]
            Emitter(event.id, (handler,)).call(context(*args, **fields))
            if [*map(id, given)] != [*map(id, modules)]:
                raise RuntimeError(
                    f"handler {describe_handler(handler)} of event {event.id!r} changed the list `modules` of its "
                    "context, which changes nothing in the model: build or wrap modules in the model provider, or "
                    "change the layers of a module in place"
                )

    def is_heard(self, event: Event[Any]) -> bool:
        """Return whether an event has a handler on this rank.

        Args:
            event: An event that belongs to no step.
        """
        return bool(self._emitters[event.id].handlers)

    @property
    def is_running(self) -> bool:
        """Whether the run has begun, and has not triggered its last event.

        What the caller of a run does before or after it, such as an evaluation, triggers no events. Otherwise trackers
        would get numbers before they have opened their files, or after they have closed them.
        """
        return self.has_begun and self.closed.id not in self._reached

    def has_passed(self, event: Event[Any]) -> bool:
        """Return whether a run that is configured will not trigger an event of its loop again."""
        namespace, _, rest = event.id.partition(".")
        if namespace != self.ready.id.partition(".")[0]:
            return False
        if rest.startswith("configuration."):
            return True
        reached = self._reached
        if self.closed.id in reached:
            return True
        if self.failed.id in reached or self.finished.id in reached:
            return event.id in reached or event not in (self.closed, self.failed)
        return event.id in reached or (event == self.checkpoint_loaded and self.ready.id in reached)

    @abc.abstractmethod
    def trigger_failed(self, error: BaseException, last_event: str | None) -> None:
        """Trigger the event that an exception has left the configuration or the loop."""

    @abc.abstractmethod
    def trigger_closed(self, outcome: Outcome, reason: str) -> None:
        """Trigger the last event of the run."""

    @contextlib.contextmanager
    def failing(self, *, has_peers: bool, closing_seconds: float) -> Iterator[None]:
        """Make a context that triggers the last two events if its block fails.

        What a handler of these events raises is added to the error as a note.

        Args:
            has_peers: Whether the job has other ranks.
            closing_seconds: How long the handlers may take before the job ends.
        """
        try:
            yield
        except (StopRequest, GeneratorExit):
            raise
        except BaseException as error:
            last_event = None if self.last is None else self.last.id
            reason = next(iter(str(error).splitlines()), "") or type(error).__qualname__
            seconds = closing_seconds if self.is_heard(self.failed) or self.is_heard(self.closed) else 0.0
            with closing(error, has_peers=has_peers, seconds=seconds):
                _attach_failure(error, functools.partial(self.trigger_failed, error, last_event))
                _attach_failure(error, functools.partial(self.trigger_closed, "failed", reason))
            raise


def _attach_failure(error: BaseException, trigger: Callable[[], None]) -> None:
    """Call handlers, and add what they raise to an error."""
    try:
        trigger()
    except BaseException as other:
        text = "".join(traceback.format_exception(other, chain=False))
        error.add_note(f"then a handler failed:\n{text}".rstrip())
        logger.exception("a handler failed after the run had ended because of %s", describe(error))


class Run:
    """What training and inference offer their users alike.

    Args:
        loop: The loop of the run.
        timeouts: How long the handlers of a failure may take.
    """

    def __init__(self, loop: Loop, timeouts: TimeoutConfig) -> None:
        self._loop = loop
        self._closing_seconds = timeouts.closing_seconds
        # Other code, such as another configurator, may draw random numbers before the run begins.
        self._random_state = loop.random_state.state_dict()
        self._is_in_loop = False
        self._stop_reason: str | None = None
        self._asked_to_stop_because: str | None = None
        self._is_first_step = True
        self._pending_evaluations: list[str] = []

    @property
    def event_bus(self) -> EventBus:
        """The bus that carries the events of the run."""
        return self._loop.moments.event_bus

    @property
    def stepper(self) -> Stepper:
        """The stepper, which knows the current step and the number of steps."""
        return self._loop.stepper

    @property
    def modules(self) -> Sequence[nn.Module]:
        """The stages of the model that this process holds, in pipeline order: one, unless there is a pipeline."""
        return self._loop.modules

    @collective
    def save(self) -> None:
        """Save a checkpoint; all ranks call this. Does nothing if this step is saved already.

        Within a step this is `control.save()`: the checkpoint follows between two steps, where weights and step agree.
        Between two steps it saves at once. With asynchronous checkpoints it then returns when the state is copied.

        Raises:
            RuntimeError: Before the run, whose state is not loaded yet, or after it, if this step is not saved.
            CheckpointError: On all ranks, if this checkpoint or the asynchronous one before cannot be written.
            StateError: On all ranks, if the state holds something that a checkpoint cannot keep.
            NonFiniteGradientsError: On all ranks, if `non_finite_gradients="stop"` has skipped a step.
        """
        if self._is_in_loop:
            self._loop.control.save()
        elif self._loop.moments.is_running:
            self._save()
        elif self._loop.checkpointer.next_checkpoint is not None:
            found, remedy = "before the run, and its state is not loaded yet", "call it between two steps"
            if self._loop.moments.has_begun:
                found = "after the run, which has released its folder, and whose state may be that within a step"
                remedy = "call it between two steps, before you leave them"
            raise RuntimeError(f"save was called {found}: {remedy}, or `ctx.control.save()` in a handler")

    @contextlib.contextmanager
    def _running(self) -> Iterator[None]:
        """Make the context of a run, from loading its state to its last event.

        Raises:
            RuntimeError: If the run has begun before.
        """
        loop = self._loop
        moments = loop.moments
        if moments.has_begun:
            done = "is complete" if self._is_complete else "has ended early"
            raise RuntimeError(
                f"this run {done}, after {self.stepper.current_step} of {self.stepper.total_steps} steps, and a run "
                "cannot begin twice: call configure() again for a new one, which resumes from the newest checkpoint"
            )
        moments.has_begun = True
        loop.random_state.load_state_dict(self._random_state)
        try:
            self._is_in_loop = True
            with moments.failing(has_peers=not loop.ranks.is_alone, closing_seconds=self._closing_seconds):
                yield
        except StopRequest as stop:
            _attach_failure(stop, functools.partial(moments.trigger_closed, "stopped", stop.signal_name))
            raise
        except GeneratorExit:
            moments.trigger_closed("stopped", "left by its caller")
            raise
        else:
            moments.trigger_closed("finished", self._stop_reason or "all steps are done")
        finally:
            self._is_in_loop = False

    def _load_state(self) -> Path | None:
        """Load the state of the run, and return the checkpoint that it was loaded from."""
        loop = self._loop
        checkpoint = loop.load_state()
        if checkpoint is None:
            return None
        self._trigger_checkpoint(loop.moments.checkpoint_loaded, checkpoint)
        manifest = loop.ranks.run_on_rank_zero(checkpoint.manifest)
        self._stop_reason = loop.ranks.run_on_rank_zero(lambda: loop.checkpointer.stop_reason_of(checkpoint))
        if loop.stepper.current_step == checkpoint.num_steps:  # otherwise it is a new run
            self._pending_evaluations = manifest.get("pending_evaluations", [])
        if self._stop_reason is not None and loop.ranks.is_main:
            left = ", ".join(map(repr, self._pending_evaluations))
            logger.warning(
                "a handler stopped this run after %d of %d steps: %s. %s",
                *(loop.stepper.current_step, loop.stepper.total_steps, self._stop_reason),
                f"Only evaluations are left to do: {left}" if left else "There is nothing left to do",
            )
        return checkpoint.path

    @property
    def _is_complete(self) -> bool:
        """Whether the run has no steps left to do."""
        return self._stop_reason is not None or self._loop.stepper.is_finished

    def _boundary(self) -> None:
        """Do what is due between two steps. This is the one place where the state of the job and the step agree.

        Raises:
            StopRequest: On all ranks, after a checkpoint, if a signal asked the job to stop.
        """
        loop = self._loop
        stepper, checkpointer, reporter = loop.stepper, loop.checkpointer, loop.reporter
        stepper.advance()
        agreed = loop.exchange.read()
        if reporter.has_numbers:
            self._report(reporter.take(has_arrived=not agreed.is_reporting, is_heard=self._hears_reports))
        if not agreed.is_saving and (saved := checkpointer.take_saved()) is not None:
            self._announce_saved(saved)
        self._announce()
        if stepper.is_finished or agreed.stop or agreed.signal:
            # No later boundary would read what was announced just now.
            agreed |= loop.exchange.read()
        if agreed.stop and not stepper.is_finished:
            self._stop()
        is_over = self._is_complete or agreed.signal != 0
        is_best = self._evaluate_due(agreed, is_stopped=agreed.signal != 0)
        is_saved = is_over or is_best or agreed.save or checkpointer.is_due(is_time_to_save=agreed.is_time_to_save)
        if is_saved:
            self._save()
        if self._is_first_step:
            self._first_step_done(is_saved=is_saved)
        for service in loop.housekeeping:
            service.step_done()
        if is_over:
            self._announce_rest()
        if agreed.signal and (self._pending_evaluations or not self._is_complete):
            raise self._stop_request(agreed.signal)

    def _first_step_done(self, *, is_saved: bool) -> None:
        self._is_first_step = False
        if not is_saved:
            self._loop.checkpointer.prepare_first_save()
        self._loop.shutdown.first_step_done()

    def _announce(self) -> None:
        """Announce to the other ranks what this one asks for; requests from now on belong to the next step."""
        loop, control = self._loop, self._loop.control
        is_time_to_save, is_saving = loop.checkpointer.announce()
        is_reporting = loop.reporter.has_numbers and loop.reporter.announce()
        signal = loop.shutdown.signals.received
        has_requests = control.stop_reason is not None or control.is_save_requested or control.requested_evaluations
        if not (has_requests or is_time_to_save or is_saving or is_reporting or signal):
            loop.exchange.begin(NO_FLAGS)
            return
        self._asked_to_stop_because = self._asked_to_stop_because or control.stop_reason
        loop.exchange.begin(
            Flags(
                signal=signal,
                stop=control.stop_reason is not None,
                save=control.is_save_requested,
                is_time_to_save=is_time_to_save,
                is_saving=is_saving,
                is_reporting=is_reporting,
                evaluations=control.requested_evaluations,
            )
        )
        control.clear()

    def _stop(self) -> None:
        """End the run after this step, because a handler on some rank asked for it."""
        loop = self._loop
        reasons = loop.exchange.ranks.gather(self._asked_to_stop_because)
        reason = next(reason for reason in reasons if reason is not None)
        self._stop_reason = reason
        loop.checkpointer.stopped_by_handler(reason)
        if loop.ranks.is_main:
            logger.info(
                "a handler stopped the run after %d of %d steps: %s",
                *(loop.stepper.current_step, loop.stepper.total_steps, reason),
            )

    def _stop_request(self, number: int) -> StopRequest:
        stop = StopRequest(number)
        if self._loop.ranks.is_main:
            logger.warning(
                "stopped after %d of %d steps on %s, with exit status %d: %s",
                *(self.stepper.current_step, self.stepper.total_steps, stop.signal_name, STOPPED),
                "run the same command again to resume"
                if self._loop.checkpointer.is_configured
                else "nothing was saved, since the run has no checkpointing",
            )
        return stop

    def _evaluate_due(self, agreed: Flags, *, is_stopped: bool) -> bool:  # noqa: ARG002 -- for training
        """Run the evaluations that are due after this step; inference has none.

        Args:
            agreed: What the ranks have agreed on.
            is_stopped: Whether a signal stops the run. Then the evaluations wait until it is resumed.

        Returns:
            Whether a save is due because of the results.
        """
        return False

    @property
    def _hears_reports(self) -> bool:
        return self._loop.moments.is_heard(self._loop.moments.report_ready)

    def _report(self, report: Report | None) -> None:
        """Trigger the event that a report has arrived, if one has."""
        loop = self._loop
        if report is not None:
            loop.moments.trigger(
                loop.moments.report_ready,
                EventReportReadyContext,
                stepper=loop.stepper,
                control=loop.control,
                report=report,
            )

    def _save(self) -> None:
        """Save a checkpoint, unless this step is saved already."""
        checkpointer = self._loop.checkpointer
        self._announce_saved(checkpointer.wait(warns=True))
        checkpoint = checkpointer.next_checkpoint
        if checkpoint is not None:
            self._trigger_checkpoint(self._loop.moments.checkpoint_started, checkpoint)
            self._announce_saved(checkpointer.save())

    def _announce_rest(self) -> None:
        """Wait for the last save and the last report, and trigger their events, when no step follows."""
        self._announce_saved(self._loop.checkpointer.wait())
        self._report(self._loop.reporter.take_last(is_heard=self._hears_reports))

    def _announce_saved(self, checkpoint: Checkpoint | None) -> None:
        """Trigger the event that a checkpoint is on disk, if one is."""
        if checkpoint is not None:
            self._trigger_checkpoint(self._loop.moments.checkpoint_saved, checkpoint)

    def _trigger_checkpoint(self, event: Event[EventCheckpointContext], checkpoint: Checkpoint) -> None:
        self._loop.moments.trigger(
            event, EventCheckpointContext, stepper=self.stepper, step=checkpoint.num_steps, path=checkpoint.path
        )


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
