"""Each line of "What it does not see" in `docs/check.md`: what is wrong, and is not reported."""

from pathlib import Path

import pytest

from d9d_check.check import check

_HEAD = """
import random
import time
from typing import Any

import torch
import torch.distributed as dist
import third_party

from d9d import Trainer, TrainingConfigurator
from d9d.loop.control import RegisterTaskEventsContext, TrainTask
from d9d.loop.event import Event, EventBus, subscribe, subscribe_annotated
from d9d.loop.event.catalogue import train
from d9d.loop.event.catalogue.common import EventStepContext
from d9d.loop.event.catalogue.inference import EVENT_INFERENCE_STEP_POST
from d9d.loop.event.catalogue.train import EVENT_TRAIN_FINISHED, EVENT_TRAIN_STEP_POST, EventTrainFinishedContext
from d9d.loop.event.catalogue.train import EVENT_TRAIN_STEP_PRE

class Log:
    @subscribe(EVENT_TRAIN_STEP_POST, optional=True)
    def on_step(self, ctx: EventStepContext) -> None: ...

class Registering(TrainTask):
    loss: torch.Tensor
    def register_events(self, ctx: RegisterTaskEventsContext) -> None:
        subscribe_annotated(ctx.event_bus, self)
"""
_GAPS = {
    "code that is not in the program": """
class Task(third_party.Base, TrainTask):
    @subscribe(EVENT_TRAIN_STEP_POST)
    def on_step(self, ctx: EventStepContext) -> None: ...
""",
    "a library": """
class Subscriber:
    @subscribe(EVENT_TRAIN_STEP_POST)
    def on_step(self, ctx: EventStepContext) -> None: ...
""",
    "names that are computed": """
class Task(TrainTask):
    def register_events(self, ctx: RegisterTaskEventsContext) -> None:
        for name in third_party.names():
            ctx.event_bus.subscribe(EVENT_TRAIN_STEP_POST, getattr(self, name))
    @subscribe(EVENT_TRAIN_STEP_POST)
    def on_step(self, ctx: EventStepContext) -> None: ...
""",
    "conditions": """
class Task(TrainTask):
    def register_events(self, ctx: RegisterTaskEventsContext) -> None:
        if time.time() < 0:
            subscribe_annotated(ctx.event_bus, self)
    @subscribe(EVENT_TRAIN_STEP_POST)
    def on_step(self, ctx: EventStepContext) -> None: ...
""",
    "counts": """
class Task(TrainTask):
    def register_events(self, ctx: RegisterTaskEventsContext) -> None:
        for _ in range(2):
            subscribe_annotated(ctx.event_bus, self)
    @subscribe(EVENT_TRAIN_STEP_POST)
    def on_step(self, ctx: EventStepContext) -> None: ...
""",
    "two objects from one place": """
def make() -> Log:
    return Log()
log, other = make(), make()
TrainingConfigurator(task=None, subscribers=[log, log, other])
""",
    "what a constructor is given": """
class Saver:
    def __init__(self, is_first: bool) -> None:
        self.is_first = is_first
    @subscribe(EVENT_TRAIN_FINISHED)
    def on_end(self, ctx: EventTrainFinishedContext) -> None:
        if self.is_first:
            dist.barrier()
def configure() -> None:
    TrainingConfigurator(subscribers=[Saver(dist.get_rank() == 0)])
""",
    "depth": """
class Task(Registering):
    @subscribe(EVENT_TRAIN_STEP_POST)
    def on_step(self, ctx: EventStepContext) -> None:
        self.call_0()
"""
    + "".join(f"    def call_{n}(self) -> None:\n        self.call_{n + 1}()\n" for n in range(12))
    + "    def call_12(self) -> None:\n        print(self.loss.item())\n",
    "marks in another package": """
class Task(Registering):
    @subscribe(EVENT_TRAIN_STEP_POST)
    def on_step(self, ctx: EventStepContext) -> None:
        if dist.get_rank() == 0:
            third_party.marked_as_collective()
""",
    "types": """
class Task(Registering):
    @subscribe(EVENT_TRAIN_STEP_POST)
    def on_step(self, ctx: EventStepContext) -> None:
        print(third_party.mean_loss())
class HoldsAnything(TrainTask):
    log: Any = Log
    def register_events(self, ctx: RegisterTaskEventsContext) -> None:
        subscribe_annotated(ctx.event_bus, self.log)
""",
    "what mypy finds with the plugin": """
class Task(Registering):
    @subscribe(train.EVENT_TRAIN_STEP_POTS)
    def on_misspelt(self, ctx: EventStepContext) -> None: ...
    @subscribe(EVENT_TRAIN_FINISHED, every=10)
    def on_finished(self, ctx: EventTrainFinishedContext) -> None: ...
    @subscribe("train.step.post")
    def on_string(self, ctx: EventStepContext) -> None: ...
    @subscribe(EVENT_TRAIN_STEP_POST)
    def on_step(self, ctx: EventStepContext, other: int) -> None: ...
class Other(TrainTask):
    def register_events(self, ctx: RegisterTaskEventsContext) -> None:
        ctx.event_bus.subscribe(EVENT_TRAIN_STEP_POST, lambda step: self.note)
        for event in (EVENT_TRAIN_STEP_POST, EVENT_TRAIN_FINISHED):
            ctx.event_bus.subscribe(event, self.note)
    def note(self, ctx: EventStepContext) -> None: ...
""",
    "ranks in turn": """
class Task(Registering):
    @subscribe(EVENT_TRAIN_STEP_POST)
    def on_step(self, ctx: EventStepContext) -> None:
        if dist.get_rank() == 0:
            dist.barrier()
        else:
            dist.barrier()
""",
    "arrays in batches": """
import numpy
from d9d import ComputeLossContext, ComputeLossResult
def collate(samples: list[Any]) -> Any: ...
class Task(TrainTask):
    def compute_loss(self, ctx: ComputeLossContext) -> ComputeLossResult:
        return ComputeLossResult(loss=ctx.outputs.mean(), loss_weight=float(ctx.batch["mask"].sum()))
""",
    "between steps": """
def run(trainer: Trainer, rewards: torch.Tensor) -> None:
    for ctx in trainer.steps():
        print(ctx.stepper.current_step, rewards.mean().item())
""",
    "overlapped communication": """
class Task(Registering):
    @subscribe(EVENT_TRAIN_STEP_POST)
    def on_step(self, ctx: EventStepContext) -> None:
        work = dist.all_reduce(self.loss, async_op=True)
        third_party.sleep()
        work.wait()
""",
    "other tensors": """
class Task(Registering):
    hits: torch.Tensor
    @subscribe(EVENT_TRAIN_STEP_POST, every=10)
    def on_step(self, ctx: EventStepContext) -> None:
        if self.hits.item() > 3 or torch.rand(()).item() > 0.5:
            dist.all_reduce(self.hits)
""",
    "other exceptions": """
class OutOfData(Exception): ...

class Task(Registering):
    @subscribe(EVENT_TRAIN_STEP_POST, every=10)
    def on_step(self, ctx: EventStepContext) -> None:
        try:
            third_party.load()
        except (KeyError, OutOfData):
            return
        dist.barrier()
""",
    "attributes that are assigned again": """
class Task(Registering):
    @subscribe(EVENT_TRAIN_STEP_PRE)
    def before(self, ctx: EventStepContext) -> None:
        self.is_writer = False
        if dist.get_rank() == 0:
            self.is_writer = True
    @subscribe(EVENT_TRAIN_STEP_POST)
    def after(self, ctx: EventStepContext) -> None:
        if self.is_writer:
            dist.all_reduce(self.loss)
""",
    "order and choice": """
class Task(Registering):
    @subscribe(EVENT_TRAIN_STEP_POST)
    def on_step(self, ctx: EventStepContext) -> None:
        names = ["loss", "value"]
        random.shuffle(names)
        for name in names:
            dist.broadcast(getattr(self, name), src=0)
        operation = dist.reduce if dist.get_rank() == 0 else dist.all_reduce
        operation(self.loss)
""",
    "what is there": """
class Task(Registering):
    def __init__(self) -> None:
        self.rows: list[str] = []
    @subscribe(EVENT_TRAIN_FINISHED)
    def on_end(self, ctx: EventTrainFinishedContext) -> None:
        first = None
        if dist.get_rank() == 0:
            first = self.loss.clone()
            self.rows.append("first")
        if first is not None or self.rows:
            dist.all_reduce(self.loss)
""",
    "signals": """
import signal
class Task(Registering):
    def __init__(self) -> None:
        self.is_asked = False
        signal.signal(signal.SIGUSR1, self.ask)
    def ask(self, number: int, frame: object) -> None:
        self.is_asked = True
    @subscribe(EVENT_TRAIN_STEP_POST)
    def on_step(self, ctx: EventStepContext) -> None:
        if self.is_asked:
            dist.barrier()
""",
    "groups": """
class Task(Registering):
    group: dist.ProcessGroup
    @subscribe(EVENT_TRAIN_STEP_POST)
    def on_step(self, ctx: EventStepContext) -> None:
        if dist.get_rank() == 0:
            dist.all_reduce(self.loss, group=self.group)
""",
    "opposite conditions": """
class Task(Registering):
    @subscribe(EVENT_TRAIN_STEP_POST)
    def on_step(self, ctx: EventStepContext) -> None:
        if dist.get_rank() == 0:
            dist.all_reduce(self.loss)
        if dist.get_rank() == 1:
            dist.all_reduce(self.loss)
""",
    "arguments": """
class Task(Registering):
    @subscribe(EVENT_TRAIN_STEP_POST)
    def on_step(self, ctx: EventStepContext) -> None:
        dist.all_reduce(self.loss if dist.get_rank() == 0 else torch.zeros(3))
""",
    "what is given back under the same name": """
class Average:
    def swap_in(self) -> None: ...
    def swap_out(self) -> None: ...
class Task(Registering):
    def __init__(self, other: third_party.Average) -> None:
        self.average, self.other = Average(), other
    @subscribe(train.EVENT_TRAIN_EVALUATION_STARTED)
    def begin(self, ctx: train.EventEvaluationStartedContext) -> None:
        self.average.swap_in()
    @subscribe(train.EVENT_TRAIN_EVALUATION_FINISHED)
    def end(self, ctx: train.EventEvaluationFinishedContext) -> None:
        self.other.swap_out()
""",
    "what is kept out of sight": """
class Task(Registering):
    losses: list[Any] = []
    norms: list[torch.Tensor] = []
    by_name: dict[str, list[torch.Tensor]] = third_party.defaultdict(list)
    def compute_loss(self, ctx: Any) -> Any:
        loss = third_party.loss(ctx.outputs, ctx.batch)
        self.losses.append(loss)
        return loss
    @subscribe(train.EVENT_TRAIN_GRADIENTS_READY)
    def on_gradients(self, ctx: train.EventGradientsReadyContext) -> None:
        self.skip = ctx.skip_update
        third_party.history(self).append(ctx.norm)
        self.by_name["norm"].append(ctx.norm)
        self.norms = self.norms + [ctx.norm]
    @subscribe(EVENT_TRAIN_STEP_POST)
    def on_step(self, ctx: EventStepContext) -> None:
        self.skip(third_party.flag())
""",
    "what is deleted, global, or in a mapping": """
model: torch.nn.Module | None = None
class Task(Registering):
    def __init__(self) -> None:
        self.writer = third_party.writer()
        self.state: dict[str, Any] = {}
    @subscribe(train.EVENT_TRAIN_CONFIG_STARTED)
    def at_first(self, ctx: Any) -> None:
        assert model is not None
        print(self.state["model"])
    @subscribe(train.EVENT_TRAIN_MODEL_STAGES_READY)
    def on_model(self, ctx: Any) -> None:
        global model
        model = ctx.modules[0]
        self.state["model"] = model
    @subscribe(EVENT_TRAIN_FINISHED)
    def end(self, ctx: EventTrainFinishedContext) -> None:
        del self.writer
    @subscribe(train.EVENT_TRAIN_CLOSED)
    def closed(self, ctx: train.EventTrainClosedContext) -> None:
        self.writer.close()
""",
    "a name that the program mentions": """
class Task(Registering):
    def on_step_post(self, ctx: EventStepContext) -> None: ...
def call(others: list[Any], ctx: EventStepContext) -> None:
    for each in others:
        each.on_step_post(ctx)
""",
}


@pytest.mark.parametrize("gap", _GAPS)
def test_what_the_page_says_it_does_not_see(gap: str, tmp_path: Path) -> None:
    """When a rule learns to see it, this test and the page change together."""
    (tmp_path / "program.py").write_text(_HEAD + _GAPS[gap])

    found = check([tmp_path], use_cache=False).diagnostics

    assert [each for each in found if each.severity == "error"] == []


def test_the_page_lists_just_these() -> None:
    """Each line of the page has its test."""
    page = (Path(__file__).parents[2] / "docs" / "check.md").read_text(encoding="utf-8")
    lines = [line for line in page.partition("## What it does not see")[2].splitlines() if line.startswith("- **")]

    assert [line.split("**")[1].strip(".").lower() for line in lines] == list(_GAPS)
