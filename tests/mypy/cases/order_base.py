"""Base classes for the cases of d9d-order, in a module that mypy may find in its cache."""

from lab.events.trial import EVENT_TRIAL_REPORT, EVENT_TRIAL_ROUND_POST, EventRoundContext, EventTrialReportContext

from d9d.loop.event import subscribe


class KeepsItsTotal:
    total: float

    @subscribe(EVENT_TRIAL_ROUND_POST)
    def keep(self, ctx: EventRoundContext) -> None:
        self.total = 1.0


class BeginsWithZero(KeepsItsTotal):
    def __init__(self) -> None:
        self.total = 0.0


class KeepsItsTitle:
    def name(self, title: str) -> None:
        self.title = title


class Annotated:
    title: str
    result: str


class Helped:
    result: str

    @subscribe(EVENT_TRIAL_REPORT)
    def finish(self, ctx: EventTrialReportContext) -> None:
        self.result = ""

    def finish_early(self) -> None:
        self.finish(EventTrialReportContext())


class Dynamic:
    @subscribe(EVENT_TRIAL_REPORT)
    def finish(self, ctx: EventTrialReportContext) -> None:
        self.result = ""

    def fill(self, name: str) -> None:
        setattr(self, name, "")
