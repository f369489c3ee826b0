"""Inference gives back what it found: modes, generators, gradient mode, signal handlers and garbage collection."""

import gc
import random
import signal
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from d9d.loop.control import (
    InitializeModelStageContext,
    InitializeModelStageResult,
    ModelProvider,
    ProcessOutputsContext,
)
from d9d.loop.event.catalogue.train import EVENT_TRAIN_STEP_PRE, EventStepContext

from .toy_job import (
    NUM_FEATURES,
    StoppedError,
    ToyInferenceTask,
    configure_inference,
    configure_training,
    inference_config,
    same_tensors,
    training_config,
    weights_of,
)


class ReadyModel(ModelProvider):
    """Provides a model that is there already."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model

    def initialize_model_stage(self, ctx: InitializeModelStageContext) -> InitializeModelStageResult:
        torch.rand(1)
        return InitializeModelStageResult(model=self._model)


class DrawingTask(ToyInferenceTask):
    """Draws from every generator, and fails if it should.

    Args:
        fails: Whether to fail.
    """

    def __init__(self, *, fails: bool = False) -> None:
        super().__init__()
        self._fails = fails
        self.drawn: list[float] = []

    def process_outputs(self, ctx: ProcessOutputsContext) -> None:
        self.drawn += [torch.rand(()).item(), random.gauss(0.0, 1.0), np.random.uniform()]
        if self._fails:
            raise StoppedError
        super().process_outputs(ctx)


def found() -> tuple[Any, ...]:
    """Return what inference must give back."""
    handlers = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR1)]
    wakeup = signal.set_wakeup_fd(-1)
    signal.set_wakeup_fd(wakeup)
    numbers = (torch.get_rng_state().tolist(), random.getstate(), str(np.random.get_state()))
    return (*numbers, handlers, wakeup, gc.isenabled(), gc.get_freeze_count(), torch.is_grad_enabled())


@pytest.mark.parametrize("collects", [False, True])
@pytest.mark.parametrize("fails", [False, True])
def test_inference_gives_back_what_it_found(*, fails: bool, collects: bool) -> None:
    """In a process whose generators are anywhere, and with a module that is in another mode than its parent."""
    model = nn.Sequential(nn.Linear(NUM_FEATURES, 4), nn.Dropout(0.5), nn.Linear(4, 1))
    model[0].eval()
    torch.manual_seed(5)
    torch.rand(3)
    (gc.enable if collects else gc.disable)()
    before = found()

    config = inference_config(garbage_collection_period_steps=1)
    inference = configure_inference(config, task=DrawingTask(fails=fails), model_provider=ReadyModel(model))
    assert found() == before
    if fails:
        with pytest.raises(StoppedError):
            inference.infer()
    else:
        inference.infer()

    assert found() == before
    assert [module.training for module in model.modules()] == [True, False, True, True]
    gc.enable()


def test_a_configuration_that_fails_restores_the_generators() -> None:
    """They are seeded early."""
    before = found()

    class Failing(ModelProvider):
        def initialize_model_stage(self, ctx: InitializeModelStageContext) -> InitializeModelStageResult:
            torch.rand(1)
            raise StoppedError

    with pytest.raises(StoppedError):
        configure_inference(inference_config(), model_provider=Failing())

    assert found() == before


def test_inference_draws_the_same_numbers_whatever_came_before() -> None:
    """Its generators depend on its seed alone, also on what is drawn between `configure` and `infer`."""
    drawn: list[list[float]] = []
    for num_drawn in (0, 3):
        torch.rand(num_drawn)
        task = DrawingTask()
        inference = configure_inference(inference_config(seed=3), task=task)
        torch.rand(num_drawn)
        inference.infer()
        drawn.append(task.drawn)

    assert drawn[0] == drawn[1]


def trained(act: Callable[[nn.Module], object]) -> dict[str, torch.Tensor]:
    """Train four steps with dropout, in the second of which a handler acts on the model, and return the weights."""
    trainer = configure_training(training_config(total_steps=4))
    (model,) = trainer.modules

    def react(ctx: EventStepContext) -> None:
        if ctx.stepper.current_step == 1:
            act(model)

    trainer.event_bus.subscribe(EVENT_TRAIN_STEP_PRE, react)
    trainer.train()
    return weights_of(model)


def test_inference_in_a_handler_of_training_does_not_change_the_training() -> None:
    """The weights are those of a run without it, bit for bit."""

    def infer(model: nn.Module) -> None:
        configure_inference(inference_config(), task=DrawingTask(), model_provider=ReadyModel(model)).infer()

    assert same_tensors(trained(infer), trained(lambda model: None))
