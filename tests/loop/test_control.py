"""Tasks, providers, and the handlers that they subscribe."""

from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import Dataset

from d9d.core.dist_context import DistributedContext
from d9d.core.loop_control import LoopControl
from d9d.core.stepper import Stepper
from d9d.loop.config import CheckpointingConfig
from d9d.loop.control import (
    BaseTask,
    BuildForwardInputsContext,
    ComputeLossContext,
    InferenceTask,
    InitializeDatasetResult,
    InitializeModelStageContext,
    InitializeModelStageResult,
    ModelProvider,
    ProcessOutputsContext,
    RegisterModelEventsContext,
    RegisterTaskEventsContext,
    TrainTask,
)
from d9d.loop.event import Event, EventBus, subscribe, subscribe_annotated
from d9d.loop.event.catalogue.train import (
    EVENT_TRAIN_FINISHED,
    EVENT_TRAIN_MODEL_STAGES_READY,
    EVENT_TRAIN_OPTIMIZER_READY,
    EVENT_TRAIN_STEP_POST,
    EventModelStagesReadyContext,
    EventOptimizerReadyContext,
    EventStepContext,
    EventTrainFinishedContext,
)
from d9d.loop.run import InferenceConfigurator, TrainingConfigurator

from .toy_job import ToyDataset, ToyModelProvider, ToyTask, configure_training, inference_config, training_config

REGISTERING_HANDLERS = """
from d9d.loop.control import TrainTask, RegisterTaskEventsContext
from d9d.loop.event import (
    subscribe,
    subscribe_annotated
)
from d9d.loop.event.catalogue.train import (
    EVENT_TRAIN_MODEL_STAGES_READY,
    EVENT_TRAIN_STEP_POST,
    EventModelStagesReadyContext,
    EventStepContext,
)

class CustomTrainTask(TrainTask):
    def __init__(self):
        self._modules = []

    def register_events(self, ctx: RegisterTaskEventsContext) -> None:
        # Automatically scans this instance for @subscribe decorators
        subscribe_annotated(ctx.event_bus, self)

    @subscribe(EVENT_TRAIN_MODEL_STAGES_READY)
    def _on_model_ready(self, ctx: EventModelStagesReadyContext) -> None:
        self._modules = ctx.modules

    @subscribe(EVENT_TRAIN_STEP_POST)
    def _on_step_post(self, ctx: EventStepContext) -> None:
        for module in self._modules:
            print(f"Step {ctx.stepper.current_step} completed; MoE routing stats: {module.moe_stats}.")

    def compute_loss(self, ctx):
        ... # Task math overrides
"""

MANUAL_REGISTRATION = """
from d9d.loop.control import TrainTask, RegisterTaskEventsContext
from d9d.loop.event import subscribe
from d9d.loop.event.catalogue.train import (
    EVENT_TRAIN_OPTIMIZER_READY
)

class CustomTrainTask(TrainTask):
    def register_events(self, ctx: RegisterTaskEventsContext) -> None:
        ctx.event_bus.subscribe(
            EVENT_TRAIN_OPTIMIZER_READY, 
            lambda event_ctx: print(f"Optimizer loaded: {event_ctx.optimizer}")
        )
"""  # noqa: W291 -- as printed

CUSTOM_EVENTS = """
from d9d.loop.event import EventBus, Event
import dataclasses
from pathlib import Path

@dataclasses.dataclass(kw_only=True)
class CheckpointContext:
    step: int
    path: Path

# Define a new event
EVENT_CHECKPOINT_SAVED = Event[CheckpointContext](id="user.checkpoint_saved")

# Trigger it from somewhere in your task
def process_something(bus: EventBus):
    bus.trigger(
        EVENT_CHECKPOINT_SAVED, 
        CheckpointContext(step=1000, path=Path("/checkpoints/step_1000"))
    )
"""  # noqa: W291 -- as printed


def executed(program: str) -> Any:
    """Execute a program as it is printed in the reference."""
    module = ModuleType("printed")
    exec(compile(program, "reference", "exec", dont_inherit=True), vars(module))  # noqa: S102 -- the point of it
    return module


class CountingModel(nn.Linear):
    """Has the attribute that the example prints."""

    moe_stats = "none"


def test_the_example_of_annotated_handlers_works(capsys: pytest.CaptureFixture[str]) -> None:
    """Printed in the reference under "Registering Handlers"."""
    task, bus, model = executed(REGISTERING_HANDLERS).CustomTrainTask(), EventBus(), CountingModel(1, 1)

    task.register_events(
        RegisterTaskEventsContext(event_bus=bus, dist_context=DistributedContext.start("cpu"), control=LoopControl())
    )
    bus.trigger(EVENT_TRAIN_MODEL_STAGES_READY, EventModelStagesReadyContext(modules=[model]))
    bus.trigger(EVENT_TRAIN_STEP_POST, EventStepContext(stepper=Stepper(3, 2), control=LoopControl()))

    assert capsys.readouterr().out == "Step 2 completed; MoE routing stats: none.\n"


def test_the_example_of_manual_registration_works(capsys: pytest.CaptureFixture[str]) -> None:
    """Printed in the reference under "Manual Registration"."""
    task = executed(MANUAL_REGISTRATION).CustomTrainTask()

    class LossModelProvider(ModelProvider):
        def initialize_model_stage(self, ctx: InitializeModelStageContext) -> InitializeModelStageResult:
            return InitializeModelStageResult(model=LossModel())

    configure_training(training_config(), task=task, model_provider=LossModelProvider()).train()

    assert capsys.readouterr().out.startswith("Optimizer loaded: AdamW (")


def test_the_example_of_custom_events_works() -> None:
    """Printed in the reference under "Custom Events"."""
    module, bus = executed(CUSTOM_EVENTS), EventBus()
    seen: list[object] = []

    bus.subscribe(module.EVENT_CHECKPOINT_SAVED, seen.append)
    module.process_something(bus)

    assert seen == [module.CheckpointContext(step=1000, path=Path("/checkpoints/step_1000"))]


class LossModel(nn.Module):
    """Computes its loss itself."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 1)

    def forward(self, *, features: torch.Tensor, target: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
        return nn.functional.mse_loss(self.linear(features), target)


class PairDataset(Dataset[tuple[torch.Tensor, torch.Tensor]]):
    """Samples that are pairs."""

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.zeros(3), torch.zeros(1)


def test_a_mapping_becomes_the_keyword_arguments_of_the_model() -> None:
    """By default, without a copy."""
    batch = {"features": torch.ones(2), "count": 3}

    result = BaseTask().build_forward_inputs(BuildForwardInputsContext(batch=batch, stepper=Stepper(1)))

    assert result.inputs is batch


def test_any_other_batch_needs_an_override() -> None:
    """The error names the type of the batch and the method to override."""
    trainer = configure_training(training_config(), task=TrainTask(), dataset=PairDataset())

    with pytest.raises(TypeError, match=r"batches of type list, .* override TrainTask\.build_forward_inputs"):
        trainer.train()


@pytest.mark.parametrize(
    ("outputs", "found"),
    [
        (torch.ones(2, 3), r"a Tensor of shape \[2, 3\], "),
        ({"loss": torch.ones(())}, "a dict, "),
        (None, "None, "),
        (1.0, "a float, "),
    ],
    ids=["matrix", "dict", "none", "number"],
)
def test_outputs_other_than_a_scalar_need_an_override(outputs: object, found: str) -> None:
    """The error names what the model returned and the method to override."""
    ctx = ComputeLossContext(outputs=outputs, batch={}, stepper=Stepper(1))

    with pytest.raises(TypeError, match=f"the model returns {found}.*override ToyTrainTask.compute_loss"):
        type("ToyTrainTask", (TrainTask,), {})().compute_loss(ctx)


def test_a_scalar_output_is_the_loss() -> None:
    """By default, with weight 1."""
    loss = torch.tensor(2.0)

    result = TrainTask().compute_loss(ComputeLossContext(outputs=loss, batch={}, stepper=Stepper(1)))

    assert result.loss is loss
    assert result.loss_weight == 1.0


def test_a_task_without_state_keeps_nothing() -> None:
    """By default its state is empty."""
    task = BaseTask()

    assert task.state_dict() == {}
    task.load_state_dict({})


def test_providers_can_be_lambdas() -> None:
    """Any callable that takes the context works."""
    trainer = TrainingConfigurator(
        config=training_config(),
        task=ToyTask(),
        model_provider=ToyModelProvider(),
        dataset_provider=lambda ctx: InitializeDatasetResult(dataset=ToyDataset()),
        optimizer_provider=lambda ctx: torch.optim.SGD(ctx.parameters(), lr=0.1),
        lr_scheduler_provider=lambda ctx: NoScheduler(),
    ).configure()

    trainer.train()

    assert isinstance(trainer.optimizer, torch.optim.SGD)
    assert isinstance(trainer.lr_scheduler, NoScheduler)


class NoScheduler:
    """Any object with these three methods is a scheduler."""

    def step(self) -> None: ...

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state_dict: dict[str, Any], /) -> None: ...


def test_an_optimizer_may_wrap_another(every_step: CheckpointingConfig) -> None:
    """The loop needs only the methods of the protocol."""

    class Wrapper:
        def __init__(self, optimizer: torch.optim.Optimizer) -> None:
            self._optimizer = optimizer
            self.num_steps = 0

        @property
        def param_groups(self) -> list[dict[str, Any]]:
            return self._optimizer.param_groups

        def step(self) -> None:
            self.num_steps += 1
            self._optimizer.step()

        def zero_grad(self) -> None:
            self._optimizer.zero_grad()

        def state_dict(self) -> dict[str, Any]:
            return {"num_steps": self.num_steps, "inner": self._optimizer.state_dict()}

        def load_state_dict(self, state_dict: dict[str, Any], /) -> None:
            self.num_steps = state_dict["num_steps"]
            self._optimizer.load_state_dict(state_dict["inner"])

    for _ in range(2):
        trainer = configure_training(
            training_config(every_step),
            optimizer_provider=lambda ctx: Wrapper(torch.optim.AdamW(ctx.parameters())),
        )
        trainer.train()

    assert isinstance(trainer.optimizer, Wrapper)
    assert trainer.optimizer.num_steps == 3


def test_the_dataset_provider_may_set_the_collate_function() -> None:
    """It is called once per micro-batch."""
    sizes: list[int] = []

    def collate(samples: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
        sizes.append(len(samples))
        return {name: torch.stack([sample[name] for sample in samples]) for name in samples[0]}

    TrainingConfigurator(
        config=training_config(),
        task=ToyTask(),
        model_provider=ToyModelProvider(),
        dataset_provider=lambda ctx: InitializeDatasetResult(dataset=ToyDataset(), collate=collate),
    ).configure().train()

    assert sizes == [2] * 6


def test_the_model_provider_may_subscribe_too() -> None:
    """Its handlers run after those of the task, which subscribes first."""
    heard: list[str] = []

    class ListeningProvider(ToyModelProvider):
        def register_events(self, ctx: RegisterModelEventsContext) -> None:
            subscribe_annotated(ctx.event_bus, self)

        @subscribe(EVENT_TRAIN_FINISHED)
        def _on_finished(self, ctx: EventTrainFinishedContext) -> None:
            heard.append("model provider")

    def listen(bus: EventBus) -> None:
        bus.subscribe(EVENT_TRAIN_FINISHED, lambda ctx: heard.append("task"))

    configure_training(training_config(), task=ToyTask(listen), model_provider=ListeningProvider()).train()

    assert heard == ["task", "model provider"]


def test_a_task_can_trigger_its_own_events() -> None:
    """On the bus of the loop, without declaring them in a catalogue."""
    event = Event[ComputeLossContext](id="test.loss.computed")
    steps: list[int] = []

    class TriggeringTask(ToyTask):
        def register_events(self, ctx: RegisterTaskEventsContext) -> None:
            self._bus = ctx.event_bus
            self._bus.subscribe(event, lambda loss_ctx: steps.append(loss_ctx.stepper.current_step))

        def compute_loss(self, ctx: ComputeLossContext) -> Any:
            self._bus.trigger(event, ctx)
            return super().compute_loss(ctx)

    configure_training(training_config(), task=TriggeringTask()).train()

    assert steps == [0, 0, 1, 1, 2, 2]


class ParentTask(ToyTask):
    """Has a handler."""

    def register_events(self, ctx: RegisterTaskEventsContext) -> None:
        subscribe_annotated(ctx.event_bus, self)

    @subscribe(EVENT_TRAIN_OPTIMIZER_READY)
    def _on_optimizer_ready(self, ctx: EventOptimizerReadyContext) -> None:
        """Handle it."""


class ForgetfulTask(ParentTask):
    """Overrides a handler without `@subscribe`."""

    def _on_optimizer_ready(self, ctx: EventOptimizerReadyContext) -> None:  # type: ignore[d9d-dropped]  # what is tested
        """Never be called."""


def test_configure_refuses_an_override_without_the_decorator() -> None:
    """The error names both methods and the event; the model is not built."""
    provider = ToyModelProvider()

    with pytest.raises(TypeError) as caught:
        configure_training(training_config(), task=ForgetfulTask(), model_provider=provider)
    message = str(caught.value)

    assert "ForgetfulTask._on_optimizer_ready overrides" in message
    assert "ParentTask._on_optimizer_ready" in message
    assert "'train.configuration.optimizer'" in message
    assert provider.num_built == 0


def test_the_exception_of_a_handler_names_it() -> None:
    """A note names the event and the handler."""

    class FailingTask(ParentTask):
        @subscribe(EVENT_TRAIN_OPTIMIZER_READY)
        def _on_optimizer_ready(self, ctx: EventOptimizerReadyContext) -> None:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError) as caught:
        configure_training(training_config(), task=FailingTask())

    (note,) = caught.value.__notes__
    assert "'train.configuration.optimizer'" in note
    assert "FailingTask._on_optimizer_ready" in note


def test_one_task_may_be_used_for_several_runs() -> None:
    """Each run has its own bus."""
    task = ParentTask()

    for _ in range(2):
        configure_training(training_config(), task=task).train()


def test_inference_passes_the_outputs_of_the_model_to_the_task() -> None:
    """They may have any type."""
    seen: list[tuple[str, list[int]]] = []

    class StringModel(nn.Module):
        def forward(self, *, features: torch.Tensor, target: torch.Tensor, index: torch.Tensor) -> str:
            return f"{len(index)} samples"

    class StringModelProvider(ModelProvider):
        def initialize_model_stage(self, ctx: InitializeModelStageContext) -> InitializeModelStageResult:
            return InitializeModelStageResult(model=StringModel())

    class SeeingTask(InferenceTask):
        def process_outputs(self, ctx: ProcessOutputsContext) -> None:
            seen.append((ctx.outputs, ctx.batch["index"].tolist()))

    InferenceConfigurator(
        config=inference_config(),
        task=SeeingTask(),
        model_provider=StringModelProvider(),
        dataset_provider=lambda ctx: InitializeDatasetResult(dataset=ToyDataset(3)),
    ).configure().infer()

    assert seen == [("2 samples", [0, 1]), ("1 samples", [2])]
