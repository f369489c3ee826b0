"""The losses of all steps are kept with the graphs that computed them."""

from parts import CONFIG, SAMPLES, Sine, build_model
from torch import Tensor, nn

from d9d import (
    ComputeLossContext,
    ComputeLossResult,
    RegisterTaskEventsContext,
    Trainer,
    TrainingConfigurator,
    subscribe,
    subscribe_annotated,
)
from d9d.loop.event.catalogue.train import EVENT_TRAIN_FINISHED, EventTrainFinishedContext


class Remembering(Sine):
    def __init__(self) -> None:
        self._losses: list[Tensor] = []

    def register_events(self, ctx: RegisterTaskEventsContext) -> None:
        subscribe_annotated(ctx.event_bus, self)

    def compute_loss(self, ctx: ComputeLossContext) -> ComputeLossResult:
        loss = nn.functional.mse_loss(ctx.outputs, ctx.batch.sin())
        self._losses.append(loss)
        return ComputeLossResult(loss=loss)

    @subscribe(EVENT_TRAIN_FINISHED)
    def report(self, ctx: EventTrainFinishedContext) -> None:
        print(f"mean loss {sum(self._losses) / len(self._losses):.3f}")


def configure() -> Trainer:
    return TrainingConfigurator(
        config=CONFIG,
        task=Remembering(),
        model_provider=build_model,
        dataset_provider=SAMPLES,
    ).configure()


if __name__ == "__main__":
    configure().train()
