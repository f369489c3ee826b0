"""Checkpoints written in the background: as exact as others, never two at once, and no error is lost."""

import contextlib
import logging
import os
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from streams import Recorded, RecordedStream, recorded_streams
from torch import nn
from torch.distributed.checkpoint import filesystem

from d9d.core import device
from d9d.core.stepper import Stepper
from d9d.loop.component.checkpoint import manager, snapshot
from d9d.loop.component.checkpoint.files import CheckpointError
from d9d.loop.component.checkpoint.job_state import JobState, Part
from d9d.loop.component.checkpoint.manager import Checkpointer
from d9d.loop.component.checkpoint.snapshot import HostSnapshot
from d9d.loop.component.checkpoint.state_dict import StateError, split_state
from d9d.loop.component.checkpoint.storage import Checkpoint
from d9d.loop.config import CheckpointingConfig
from d9d.loop.event.catalogue.train import EVENT_TRAIN_FINISHED, EVENT_TRAIN_STEP_POST, EVENT_TRAIN_STEP_PRE

from .test_checkpoint import largest_file
from .toy_job import (
    StoppedError,
    ToyModelProvider,
    ToyTask,
    configure_inference,
    configure_training,
    inference_config,
    same_tensors,
    steps_saved,
    training_config,
)


class Counting(ToyTask):
    """Changes its state in place in each step."""

    def __init__(self) -> None:
        super().__init__()
        self._state: dict[str, Any] = {"seen": [], "sum": torch.zeros(3)}

    def compute_loss(self, ctx: Any) -> Any:
        self._state["seen"].append(ctx.stepper.current_step)
        self._state["sum"] += 1
        return super().compute_loss(ctx)

    def state_dict(self) -> dict[str, Any]:
        return self._state

    def load_state_dict(self, state_dict: dict[str, Any], /) -> None:
        self._state = state_dict


class Holder:
    """Has any state."""

    def __init__(self, **state: Any) -> None:
        self.state = state

    def state_dict(self) -> dict[str, Any]:
        return self.state

    def load_state_dict(self, state_dict: dict[str, Any], /) -> None:
        raise AssertionError


@pytest.fixture
def background(every_step: CheckpointingConfig) -> CheckpointingConfig:
    """Settings that save after each step in the background."""
    return every_step.model_copy(update={"asynchronous": True})


def hold_writes(monkeypatch: pytest.MonkeyPatch, release: threading.Event) -> list[int]:
    """Keep each write from starting until it is released; return the list of threads that tried to."""
    asked: list[int] = []
    wait = HostSnapshot.wait

    def wait_longer(snapshot: HostSnapshot) -> None:
        asked.append(threading.get_ident())
        release.wait(30)
        wait(snapshot)

    monkeypatch.setattr(HostSnapshot, "wait", wait_longer)
    return asked


def checkpointer_of(config: CheckpointingConfig, **state: Any) -> tuple[Checkpointer, Stepper, Holder]:
    stepper, holder = Stepper(10), Holder(**state)
    config.folder.mkdir(parents=True, exist_ok=True)
    checkpointer = Checkpointer(config, stepper=stepper, state=JobState({"holder": Part(holder)}), settings={})
    return checkpointer, stepper, holder


def test_a_background_save_has_the_state_of_its_own_step(every_step: CheckpointingConfig, tmp_path: Path) -> None:
    """Each checkpoint equals that of a synchronous save, bit for bit."""
    background = CheckpointingConfig(
        folder=tmp_path / "background", period_steps=1, num_to_keep=1000, asynchronous=True
    )
    for config in (every_step, background):
        configure_training(training_config(config, total_steps=6), task=Counting()).train()

    for step in range(1, 7):
        expected, found = (
            split_state(Checkpoint(config.folder / f"step-{step}").read()) for config in (every_step, background)
        )
        assert same_tensors(found[0], expected[0])
        assert found[1] == expected[1]


def test_changes_after_the_copy_are_not_saved(background: CheckpointingConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tensors and lists are copied before the loop continues."""
    release = threading.Event()
    hold_writes(monkeypatch, release)
    checkpointer, stepper, holder = checkpointer_of(background, numbers=torch.zeros(3), seen=[1])
    stepper.advance()
    checkpointer.save()
    holder.state["numbers"] += 7
    holder.state["seen"].append(2)
    release.set()
    checkpointer.wait()

    state = Checkpoint(background.folder / "step-1").read()["holder"]
    assert torch.equal(state["numbers"], torch.zeros(3))
    assert state["seen"] == [1]


def test_a_copy_reuses_the_memory_of_the_previous_one() -> None:
    """Only a tensor whose shape has changed is copied into new memory."""
    snapshot = HostSnapshot()
    state = {"same": torch.zeros(3), "grown": torch.zeros(2)}
    first = snapshot.take(state)
    state = {"same": torch.ones(3), "grown": torch.ones(4)}
    second = snapshot.take(state)

    assert second["same"] is first["same"]
    assert same_tensors(second, state)
    assert second["grown"] is not state["grown"]


def test_a_save_waits_for_the_previous_one(background: CheckpointingConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """At most one save runs at a time."""
    release = threading.Event()
    asked = hold_writes(monkeypatch, release)
    checkpointer, stepper, _ = checkpointer_of(background, value=1)
    stepper.advance()
    checkpointer.save()
    stepper.advance()
    threading.Timer(0.2, release.set).start()
    began = time.monotonic()
    checkpointer.save()

    assert time.monotonic() - began > 0.15
    assert steps_saved(background.folder)[:1] == [1]
    checkpointer.wait()
    assert steps_saved(background.folder) == [1, 2]
    assert len(set(asked)) == 1


def test_a_long_wait_for_the_previous_save_is_logged(
    background: CheckpointingConfig, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The warning names the step, the seconds and the remedy."""
    monkeypatch.setattr(manager, "_NOTABLE_WAIT_SECONDS", 0.01)
    release = threading.Event()
    hold_writes(monkeypatch, release)
    checkpointer, stepper, _ = checkpointer_of(background, value=1)
    for _ in range(2):
        stepper.advance()
        threading.Timer(0.1, release.set).start()
        checkpointer.save()
    checkpointer.wait()

    (line,) = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert line.startswith("step 2 waited 0.")
    assert line.endswith("save less often, or to a faster disk")


def test_the_last_save_is_on_disk_before_train_finished(background: CheckpointingConfig) -> None:
    """Handlers of `train.finished` find the last checkpoint."""
    found: list[list[int]] = []
    trainer = configure_training(training_config(background))
    trainer.event_bus.subscribe(EVENT_TRAIN_FINISHED, lambda ctx: found.append(steps_saved(background.folder)))
    trainer.train()

    assert found == [[1, 2, 3]]
    assert not list(background.folder.glob(".*"))


def test_inference_saves_in_the_background_too(background: CheckpointingConfig) -> None:
    """When `infer` returns, the last save is on disk."""
    configure_inference(inference_config(background)).infer()

    assert steps_saved(background.folder) == [1, 2, 3]


@pytest.mark.parametrize("failing_step", [1, 3])
def test_a_failed_save_is_raised_after_a_later_step_or_at_the_end(
    failing_step: int, background: CheckpointingConfig, caplog: pytest.LogCaptureFixture
) -> None:
    """It is logged at once, leaves nothing behind, and earlier checkpoints are intact."""
    trainer = configure_training(training_config(background))
    steps: list[int] = []

    def fill_disk(ctx: Any) -> None:
        trainer._loop.checkpointer.wait()
        if ctx.stepper.current_step + 1 == failing_step:
            monkey.__enter__()

    monkey = largest_file(100)
    trainer.event_bus.subscribe(EVENT_TRAIN_STEP_POST, fill_disk)
    trainer.event_bus.subscribe(EVENT_TRAIN_STEP_PRE, lambda ctx: steps.append(ctx.stepper.current_step))
    try:
        with pytest.raises(CheckpointError) as caught:
            trainer.train()
    finally:
        monkey.__exit__(None, None, None)

    message = str(caught.value)
    assert message.startswith(f"could not write checkpoint step-{failing_step} to {background.folder} (")
    assert "File too large" in message
    assert message.endswith("earlier checkpoints are intact: fix the cause and run again")
    assert steps_saved(background.folder) == list(range(1, failing_step))
    assert f"checkpoint step-{failing_step} failed in the background; the loop raises this error" in caplog.text
    assert not list(background.folder.glob(".*"))


def test_state_that_a_checkpoint_cannot_hold_is_raised_with_its_path(background: CheckpointingConfig) -> None:
    """The error of a background save names the path of the state."""
    checkpointer, stepper, _ = checkpointer_of(background, thing=object())
    stepper.advance()
    checkpointer.save()

    with pytest.raises(StateError, match="'holder/thing' is a object, which a checkpoint cannot hold"):
        checkpointer.wait()


def test_a_failed_save_can_be_repeated(background: CheckpointingConfig) -> None:
    """When the disk has space again, the same step can be saved again."""
    checkpointer, stepper, _ = checkpointer_of(background, value=1)
    stepper.advance()
    with largest_file(10):
        checkpointer.save()
        with pytest.raises(CheckpointError, match="File too large"):
            checkpointer.wait()
    checkpointer.save()
    checkpointer.wait()

    assert steps_saved(background.folder) == [1]


def test_a_loop_that_fails_lets_a_running_save_complete(background: CheckpointingConfig) -> None:
    """The error of the loop is raised at once, and the checkpoint is complete later."""

    def stop(ctx: Any) -> None:
        if ctx.stepper.current_step == 2:
            raise StoppedError

    trainer = configure_training(training_config(background))
    trainer.event_bus.subscribe(EVENT_TRAIN_STEP_PRE, stop)
    with pytest.raises(StoppedError):
        trainer.train()
    trainer._loop.checkpointer.wait()

    assert steps_saved(background.folder) == [1, 2]
    assert [checkpoint.problem() for checkpoint in Checkpoint.list_in(background.folder)] == [None, None]


@pytest.fixture
def accelerator(monkeypatch: pytest.MonkeyPatch) -> Iterator[Recorded]:
    """Let torch's writer of checkpoints take the CPU for an accelerator whose current stream is that of the loop."""
    with recorded_streams(manager, snapshot, device) as recorded:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(filesystem, "_get_available_device_type", lambda: "cuda")
        loop = RecordedStream(recorded, "loop")
        module = SimpleNamespace(current_stream=lambda: loop, stream=lambda _stream: contextlib.nullcontext())
        monkeypatch.setattr(filesystem, "_get_device_module", lambda _type: module)
        yield recorded


def test_a_background_save_does_not_synchronize_the_stream_of_the_loop(
    background: CheckpointingConfig, accelerator: Recorded
) -> None:
    """Torch's writer would do it for every 10 MB, although the copy is on the host; here are 40 MB."""
    checkpointer, stepper, _ = checkpointer_of(background, tensors=[torch.rand(1_000_000) for _ in range(10)])
    stepper.advance()
    checkpointer.save()
    checkpointer.wait()

    assert [call for call in accelerator.calls if call.startswith("loop.")] == []
    assert accelerator.calls == ["computing.record_event", "event.synchronize"]
    assert steps_saved(background.folder) == [1]


def test_the_thread_that_writes_has_a_stream_of_its_own(accelerator: Recorded, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each thread would start with the default stream, which the loop uses."""
    found: list[tuple[str, Any]] = []
    cuda = torch.device("cuda", 3)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda check_available=False: torch.device("cuda"))
    monkeypatch.setattr(torch.accelerator, "current_device_index", lambda: 3)
    monkeypatch.setattr(torch.accelerator, "set_device_index", lambda chosen: found.append(("device", chosen)))
    monkeypatch.setattr(torch.accelerator, "set_stream", lambda stream: found.append(("stream", stream.name)))
    executor = manager._background_executor()
    executor.submit(int).result()
    executor.shutdown()

    assert found == [("device", cuda), ("stream", "stream0")]


def test_memory_of_copies_is_hardly_larger_than_the_state(accelerator: Recorded) -> None:
    """Torch rounds pinned memory up to a power of two; a block for each tensor would take half as much again."""
    sizes = [300_000] * 40 + [700_000] * 20 + [5_000] * 50 + [1] * 50
    state = {str(number): torch.rand(size) for number, size in enumerate(sizes)}
    copied = HostSnapshot().take(state)

    num_bytes = 4 * sum(sizes)
    rounded = sum(2 ** (size - 1).bit_length() for size in accelerator.pinned_bytes)
    assert num_bytes <= rounded < 1.05 * num_bytes
    assert same_tensors(copied, state)
    # Nothing else is in the storage of a copy, so that torch writes it as it is.
    assert all(copy.untyped_storage().nbytes() == copy.nbytes for copy in copied.values())


@given(st.lists(st.integers(0, 5_000_000), max_size=60))
def test_every_part_has_its_own_place_in_a_block(sizes: list[int]) -> None:
    """Blocks are powers of two, their parts do not overlap, and at most the last of them has much room left."""
    places = sorted(
        (number, start, start + sizes[part])
        for number, block in enumerate(snapshot.divide_into_blocks(sizes))
        for part, start in block.offsets.items()
        if start + sizes[part] <= block.num_bytes == 1 << (block.num_bytes.bit_length() - 1)
    )

    assert len(places) == sum(size > 0 for size in sizes)
    assert all(end <= start for (one, _, end), (other, start, _) in pairwise(places) if one == other)


def test_the_memory_of_the_first_copy_is_allocated_after_the_first_step(
    every_step: CheckpointingConfig, accelerator: Recorded
) -> None:
    """In the middle of the run the device would wait for it; the state of the optimizer is included."""
    allocated: list[int] = []
    config = every_step.model_copy(update={"asynchronous": True, "period_steps": 4})
    trainer = configure_training(training_config(config, total_steps=5), model_provider=ToyModelProvider(10_000))
    trainer.event_bus.subscribe(EVENT_TRAIN_STEP_PRE, lambda ctx: allocated.append(sum(accelerator.pinned_bytes)))
    trainer.train()

    assert allocated[0] == 0
    assert allocated[1] >= 3 * 4 * sum(weight.numel() for weight in trainer.modules[0].parameters())
    assert {*allocated[1:4]} == {allocated[1]}
    assert allocated[4] < 1.1 * allocated[1]  # the random state, and no more weights


def test_copies_have_the_strides_of_their_tensors() -> None:
    """As those that torch allocates have."""
    state = {
        "transposed": torch.rand(3, 4).T,
        "expanded": torch.rand(3, 1).expand(3, 4),
        "channels last": torch.rand(2, 3, 4, 5).to(memory_format=torch.channels_last),
        "empty": torch.empty(0, 3),
        "scalar": torch.tensor(2.0, dtype=torch.float64),
        "flags": torch.tensor([True, False]),
    }
    copied = HostSnapshot().take(state)

    assert same_tensors(copied, state)
    assert all(copied[name].stride() == torch.clone(tensor).stride() for name, tensor in state.items())


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no CUDA device")
def test_a_copy_from_a_gpu_is_not_changed_by_later_work() -> None:
    """The host does not wait for it, the memory is pinned, and the next copy reuses it."""
    values = torch.zeros(10_000_000, device="cuda")
    copies = HostSnapshot()
    addresses = set()
    for number in range(3):
        torch.cuda._sleep(100_000_000)  # type: ignore[no-untyped-call] # torch's own
        copied = copies.take({"values": values})["values"]
        is_complete = copies._events[0].query()
        values += 1
        copies.wait()
        assert not is_complete
        assert copied.is_pinned()
        assert bool((copied == number).all())
        addresses.add(copied.data_ptr())
    assert len(addresses) == 1


def seconds_of(work: Callable[[], Any]) -> tuple[float, float]:
    """Return how long a function takes, and how much of that this thread computes."""
    began, computing = time.perf_counter(), time.thread_time()
    work()
    return time.perf_counter() - began, time.thread_time() - computing


def medians(seconds: list[tuple[float, float]]) -> tuple[float, float]:
    elapsed, computing = zip(*seconds, strict=True)
    return statistics.median(elapsed), statistics.median(computing)


def is_crowded() -> bool:
    """Return whether other processes use the cores that a background thread would use."""
    return os.getloadavg()[0] > (os.cpu_count() or 1) - 0.5


@pytest.mark.slow
def test_a_step_during_a_save_takes_little_longer_than_another(tmp_path: Path) -> None:
    """At most 1.1 times as long, with a state of a quarter of a gigabyte, where a processor is free for the save.

    Where none is, the processor time of a step is compared instead. The step that starts a save also copies the state,
    and is measured by itself: the CPU copies at the speed of its memory.
    """
    torch.set_num_threads(1)
    model = nn.Sequential(*[nn.Linear(2048, 2048) for _ in range(5)])
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    features = torch.randn(64, 2048)
    stepper = Stepper(1000)
    crowded = is_crowded()

    def step() -> None:
        optimizer.zero_grad()
        model(features).square().mean().backward()
        optimizer.step()
        stepper.advance()

    holder = Holder(model=model.state_dict(), optimizer={})
    config = CheckpointingConfig(folder=tmp_path, asynchronous=True, num_to_keep=1)
    checkpointer = Checkpointer(config, stepper=stepper, state=JobState({"holder": Part(holder)}), settings={})
    for _ in range(3):
        step()
    holder.state["optimizer"] = {str(key): value for key, value in optimizer.state_dict()["state"].items()}
    checkpointer.save()  # the first copy takes memory
    alone: list[tuple[float, float]] = []
    background: list[tuple[float, float]] = []
    copying: list[tuple[float, float]] = []
    for _ in range(16):
        checkpointer.wait()
        copying.append(seconds_of(checkpointer.save))
        num_steps = 0
        while checkpointer.is_writing and num_steps < 4:
            seconds = seconds_of(step)
            if checkpointer.is_writing:  # all of it was during a save
                background.append(seconds)
                num_steps += 1
        checkpointer.wait()
        alone += [seconds_of(step) for _ in range(max(num_steps, 1))]  # in turns: what slows one kind slows both

    (plain, plain_computing), (disturbed, disturbed_computing) = medians(alone), medians(background)
    print(  # noqa: T201 -- the ratio is what one runs this for
        f"\na step: {plain * 1e3:.0f} ms alone; during a save {disturbed / plain:.2f} times that, and "
        f"{disturbed_computing / plain_computing:.2f} times as much computing ({len(background)} steps); "
        f"the copy: {medians(copying)[0] / plain:.2f} of a step; processors {'taken' if crowded else 'free'}"
    )
    assert disturbed_computing / plain_computing < 1.1
    assert crowded or disturbed / plain < 1.1
