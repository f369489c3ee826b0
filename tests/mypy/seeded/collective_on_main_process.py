"""A handler of the main process alone waits for all ranks."""

from parts import CONFIG, SAMPLES, Sine, build_model
from torch import distributed

from d9d import Trainer, TrainingConfigurator, subscribe
from d9d.loop.event.catalogue.train import EVENT_TRAIN_FINISHED, EventTrainFinishedContext


class Exporter:
    @subscribe(EVENT_TRAIN_FINISHED, main_process_only=True)
    def export(self, ctx: EventTrainFinishedContext) -> None:
        print("the weights are exported")
        distributed.barrier()


def configure() -> Trainer:
    return TrainingConfigurator(
        config=CONFIG,
        task=Sine(),
        model_provider=build_model,
        dataset_provider=SAMPLES,
        subscribers=[Exporter()],
    ).configure()


if __name__ == "__main__":
    configure().train()
