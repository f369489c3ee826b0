"""Subscribers that are given to both loops."""

from d9d import InferenceConfigurator, TrainingConfigurator
from d9d.loop.event import subscribe
from d9d.loop.event.catalogue.common import EventStepContext
from d9d.loop.event.catalogue.inference import EVENT_INFERENCE_STEP_POST
from d9d.loop.event.catalogue.train import EVENT_TRAIN_STEP_POST


class Log:
    @subscribe(EVENT_TRAIN_STEP_POST)
    def on_step(self, ctx: EventStepContext) -> None: ...


class Memory:
    @subscribe(EVENT_TRAIN_STEP_POST, optional=True)
    @subscribe(EVENT_INFERENCE_STEP_POST, optional=True)
    def on_step(self, ctx: EventStepContext) -> None: ...


def shared() -> list[object]:
    return [Log(), Memory()]


def wrong() -> None:
    TrainingConfigurator(config=None, task=None, subscribers=shared()).configure().train()
    # E[d9d-scope]: Handler "on_step" of EVENT_TRAIN_STEP_POST ("train.step.post") is never called: the inference loop
    #   runs "Log", and only the training loop triggers this event. Did you mean EVENT_INFERENCE_STEP_POST?
    InferenceConfigurator(config=None, task=None, subscribers=shared()).configure().infer()


def right() -> None:
    TrainingConfigurator(config=None, task=None, subscribers=[Log(), Memory()]).configure().train()
    InferenceConfigurator(config=None, task=None, subscribers=[Memory()]).configure().infer()
