"""A handler that does not annotate its context reads a field that does not exist."""

from parts import CONFIG, SAMPLES, Sine, build_model

from d9d import Trainer, TrainingConfigurator, subscribe
from d9d.loop.event.catalogue.train import EVENT_TRAIN_FINISHED


class Summary:
    @subscribe(EVENT_TRAIN_FINISHED)
    def print_results(self, ctx):
        print(f"trained for {ctx.stepper.current_step} steps")


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
