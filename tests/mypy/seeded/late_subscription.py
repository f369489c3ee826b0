"""A callback is added when the event that it waits for is over."""

from parts import CONFIG, SAMPLES, Sine, build_model

from d9d import RegisterTaskEventsContext, Trainer, TrainingConfigurator, subscribe, subscribe_annotated
from d9d.loop.event.catalogue.common import EventConfigurationStartedContext
from d9d.loop.event.catalogue.train import EVENT_TRAIN_CONFIG_STARTED, EVENT_TRAIN_READY, EventTrainReadyContext


class SettingsLog:
    @subscribe(EVENT_TRAIN_CONFIG_STARTED)
    def log(self, ctx: EventConfigurationStartedContext) -> None:
        print(ctx.settings)


class Engine(Sine):
    def register_events(self, ctx: RegisterTaskEventsContext) -> None:
        subscribe_annotated(ctx.event_bus, self)
        self._bus = ctx.event_bus

    @subscribe(EVENT_TRAIN_READY)
    def add_callbacks(self, ctx: EventTrainReadyContext) -> None:
        subscribe_annotated(self._bus, SettingsLog())


def configure() -> Trainer:
    return TrainingConfigurator(
        config=CONFIG,
        task=Engine(),
        model_provider=build_model,
        dataset_provider=SAMPLES,
    ).configure()


if __name__ == "__main__":
    configure().train()
