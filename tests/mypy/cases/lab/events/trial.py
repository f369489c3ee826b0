# Generated from catalogue.yaml by `d9d-catalogue generate`; edit the catalogue, not this file.
# Digests: catalogue 8a554fee4af0e9b9, body d176337352225fd3
# ruff: noqa: E501, RUF100
"""Events of a trial, which a laboratory runs with its own loops."""

import dataclasses
from typing import (
    TYPE_CHECKING,
    Any,
    Final,
)

from d9d.loop.event import (
    Event,
)
from d9d.loop.event.deprecation import (
    deprecated,
    deprecated_names,
)
from torch import (
    Tensor,
)

__all__ = [
    "EVENT_TRIAL_DRAW_POST",
    "EVENT_TRIAL_DRAW_PRE",
    "EVENT_TRIAL_PAUSED",
    "EVENT_TRIAL_READY",
    "EVENT_TRIAL_REPORT",
    "EVENT_TRIAL_ROUND_POST",
    "EVENT_TRIAL_ROUND_PRE",
    "EVENT_TRIAL_TURN_POST",
    "EventRoundContext",
    "EventTrialPausedContext",
    "EventTrialReadyContext",
    "EventTrialReportContext",
    "EventTurnContext",
]


@dataclasses.dataclass(kw_only=True, frozen=True, slots=True)
class EventTrialReadyContext:
    """Context of the moment at which the trial is prepared.

    Attributes:
        title: What the trial is called.
        mood: How the trial feels.

            Deprecated since 0.3. Nobody asks.
    """

    title: str
    mood: str | None = None

    @property
    @deprecated(
        "EventTrialReadyContext.label is deprecated since 0.2; use title instead.",
    )
    def label(self) -> str:
        """The older name of the title.

        Deprecated since 0.2; use title instead.
        """
        return self.title


@dataclasses.dataclass(kw_only=True, frozen=True, slots=True)
class EventRoundContext:
    """Context of a moment within one round.

    Attributes:
        index: The index of the round, from 0.
        losses: The losses of the round, of shape `[sample]`.
        counts: How many samples there were of each kind, of shape `[kind]`.
        answer: What was measured, a scalar.
    """

    index: int
    losses: Tensor
    counts: Tensor | None = None
    answer: Any = None


@dataclasses.dataclass(kw_only=True, frozen=True, slots=True)
class EventTrialPausedContext:
    """Context of the moment at which the trial pauses.

    Deprecated since 0.2.
    """


@dataclasses.dataclass(kw_only=True, frozen=True, slots=True)
class EventTrialReportContext:
    """Context of the moment at which the trial is over."""


EVENT_TRIAL_READY: Final[Event[EventTrialReadyContext]] = Event(
    id="trial.ready",
    context_name="lab.events.trial.EventTrialReadyContext",
)
"""Triggered when the trial is prepared."""

EVENT_TRIAL_ROUND_PRE: Final[Event[EventRoundContext]] = Event(
    id="trial.round.pre",
    context_name="lab.events.trial.EventRoundContext",
)
"""Triggered at the beginning of a round."""

EVENT_TRIAL_DRAW_PRE: Final[Event[EventRoundContext]] = Event(
    id="trial.draw.pre",
    context_name="lab.events.trial.EventRoundContext",
)
"""Triggered before the samples of a round are drawn."""

EVENT_TRIAL_DRAW_POST: Final[Event[EventRoundContext]] = Event(
    id="trial.draw.post",
    context_name="lab.events.trial.EventRoundContext",
)
"""Triggered after the samples of a round are drawn."""

EVENT_TRIAL_ROUND_POST: Final[Event[EventRoundContext]] = Event(
    id="trial.round.post",
    context_name="lab.events.trial.EventRoundContext",
)
"""Triggered at the end of a round."""

EVENT_TRIAL_PAUSED: Final[Event[EventTrialPausedContext]] = Event(
    id="trial.paused",
    context_name="lab.events.trial.EventTrialPausedContext",
)
"""Triggered when the trial pauses before its report. Will go without a replacement.

Deprecated since 0.2. Nothing pauses a trial any more.
"""

EVENT_TRIAL_REPORT: Final[Event[EventTrialReportContext]] = Event(
    id="trial.report",
    context_name="lab.events.trial.EventTrialReportContext",
)
"""Triggered when the trial is over."""

if TYPE_CHECKING:
    EVENT_TRIAL_TURN_POST = EVENT_TRIAL_ROUND_POST
    """The older name of the end of a round.

    Deprecated since 0.2; use EVENT_TRIAL_ROUND_POST instead. Turns are called rounds
    now.
    """

    EventTurnContext = EventRoundContext
    """The older name of the context of a round.

    Deprecated since 0.2; use EventRoundContext instead.
    """
else:
    __getattr__ = deprecated_names(
        __name__,
        {
            "EVENT_TRIAL_TURN_POST": (
                EVENT_TRIAL_ROUND_POST,
                "EVENT_TRIAL_TURN_POST is deprecated since 0.2; use EVENT_TRIAL_ROUND_POST instead. Turns are called rounds now.",
            ),
            "EventTurnContext": (
                EventRoundContext,
                "EventTurnContext is deprecated since 0.2; use EventRoundContext instead.",
            ),
        },
    )
