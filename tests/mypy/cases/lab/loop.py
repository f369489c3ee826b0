"""The loops of the project, which trigger its events."""

from lab.events import trial
from moments import common, inference, train

from d9d.loop.event import EventBus


def run_training(bus: EventBus, ready: train.EventReadyContext, step: common.EventStepContext) -> None:
    bus.trigger(train.EVENT_TRAIN_READY, ready)
    bus.trigger(train.EVENT_TRAIN_STEP_PRE, step)
    bus.trigger(train.EVENT_TRAIN_STEP_POST, step)


def run_inference(bus: EventBus, step: common.EventStepContext) -> None:
    bus.trigger(inference.EVENT_INFERENCE_STEP_POST, step)


def run_trial(
    bus: EventBus,
    ready: trial.EventTrialReadyContext,
    round_: trial.EventRoundContext,
    report: trial.EventTrialReportContext,
) -> None:
    bus.trigger(trial.EVENT_TRIAL_READY, ready)
    bus.trigger(trial.EVENT_TRIAL_ROUND_PRE, round_)
    with bus.bounded(trial.EVENT_TRIAL_DRAW_PRE, trial.EVENT_TRIAL_DRAW_POST, round_):
        pass
    bus.trigger(trial.EVENT_TRIAL_ROUND_POST, round_)
    bus.trigger(trial.EVENT_TRIAL_REPORT, report)
