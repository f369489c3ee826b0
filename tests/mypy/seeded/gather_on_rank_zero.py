"""Rank 0 alone gathers the outputs of all ranks."""

import torch
from parts import CONFIG, SAMPLES, Sine, build_model
from torch import distributed

from d9d import Trainer, TrainingConfigurator, subscribe
from d9d.loop.event.catalogue.train import EVENT_TRAIN_FINISHED, EventTrainFinishedContext


class Collector:
    @subscribe(EVENT_TRAIN_FINISHED)
    def gather(self, ctx: EventTrainFinishedContext) -> None:
        if distributed.get_rank() == 0:
            own = torch.zeros(1)
            outputs = [torch.empty_like(own) for _ in range(distributed.get_world_size())]
            distributed.all_gather(outputs, own)
            print(f"gathered {len(outputs)} outputs")


def configure() -> Trainer:
    return TrainingConfigurator(
        config=CONFIG,
        task=Sine(),
        model_provider=build_model,
        dataset_provider=SAMPLES,
        subscribers=[Collector()],
    ).configure()


if __name__ == "__main__":
    configure().train()
