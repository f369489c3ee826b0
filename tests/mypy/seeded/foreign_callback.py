"""A callback of another framework is passed: nothing calls its methods."""

from parts import CONFIG, SAMPLES, Sine, build_model

from d9d import Trainer, TrainingConfigurator


class EarlyStopping:
    def __init__(self, patience: int) -> None:
        self.patience = patience

    def on_validation_end(self, trainer: Trainer, module: object) -> None:
        print(f"{self.patience} more reports for {module}", trainer)


def configure() -> Trainer:
    return TrainingConfigurator(
        config=CONFIG,
        task=Sine(),
        model_provider=build_model,
        dataset_provider=SAMPLES,
        subscribers=[EarlyStopping(patience=3)],
    ).configure()


if __name__ == "__main__":
    configure().train()
