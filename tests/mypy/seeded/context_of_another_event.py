"""A handler takes the context of another event."""

from parts import CONFIG, SAMPLES, Sine, build_model

from d9d import Trainer, TrainingConfigurator, subscribe
from d9d.loop.event.catalogue.train import EVENT_TRAIN_FINISHED, EventEvaluationFinishedContext


class Summary:
    @subscribe(EVENT_TRAIN_FINISHED)
    def print_results(self, ctx: EventEvaluationFinishedContext) -> None:
        print(f"results of {ctx.name}: {ctx.metrics}")


def configure() -> Trainer:
    return TrainingConfigurator(
        config=CONFIG,
        task=Sine(),
        model_provider=build_model,
        dataset_provider=SAMPLES,
        subscribers=[Summary()],
    ).configure()


if __name__ == "__main__":
    configure().train()
