"""Loading weights takes little more memory than the model itself, and little more time than reading them."""

import ctypes
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from d9d import WeightMapping, WeightRule
from d9d.loop.component.checkpoint.source import find_source, load_weights
from d9d.loop.component.ranks import ALONE

NUM_TENSORS, ROWS, COLUMNS = 8, 1024, 4096
TENSOR_BYTES = ROWS * COLUMNS * 4
BOUND = 1.5 * TENSOR_BYTES


def anonymous_bytes() -> int:
    """Return the memory of this process that is not that of a file."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(next(line for line in status.splitlines() if line.startswith("RssAnon")).split()[1]) * 1024


def peak_of(work: Callable[[], object]) -> int:
    """Return by how many bytes memory grows at most while a function runs."""
    ctypes.CDLL(None).malloc_trim(0)  # memory that is free, but still held, would hide growth
    before, peak, is_done = anonymous_bytes(), 0, threading.Event()

    def watch() -> None:
        nonlocal peak
        while not is_done.wait(0.001):
            peak = max(peak, anonymous_bytes() - before)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        result = work()
        peak = max(peak, anonymous_bytes() - before)
        del result
    finally:
        is_done.set()
        watcher.join()
    return peak


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("source")
    save_file({f"w{index}": torch.ones(ROWS, COLUMNS) for index in range(NUM_TENSORS)}, folder / "model.safetensors")
    return folder


def model(*shape: int) -> nn.Module:
    """Return a model whose memory has been touched."""
    module = nn.Module()
    for index in range(NUM_TENSORS):
        module.register_parameter(f"w{index}", nn.Parameter(torch.zeros(shape).fill_(2)))
    return module


TRANSPOSED = WeightMapping(rules=[WeightRule("w*", "w*", transpose=True)])


@pytest.mark.parametrize("mapping", [WeightMapping(), TRANSPOSED], ids=["same", "transposed"])
def test_loading_needs_memory_for_one_tensor(mapping: WeightMapping, source: Path) -> None:
    """Besides the model, whatever the mapping does and however many tensors there are."""
    module = model(ROWS, COLUMNS) if mapping.rules == () else model(COLUMNS, ROWS)
    load_weights(find_source(source), [module], ALONE, mapping)  # what torch imports on first use is not counted

    assert peak_of(lambda: load_weights(find_source(source), [module], ALONE, mapping)) < BOUND


def test_a_copy_of_all_weights_exceeds_the_bound(source: Path) -> None:
    """Otherwise the test above would prove nothing."""
    assert peak_of(lambda: [tensor.clone() for tensor in load_file(source / "model.safetensors").values()]) > BOUND


@pytest.mark.slow
def test_loading_takes_the_time_of_the_safetensors_package(tmp_path: Path) -> None:
    """1 GB from the page cache into a model that exists, at most 1.2 times as long; least of five runs in turns."""
    shape = (2048, 4096)
    save_file({f"w{index}": torch.ones(shape) for index in range(32)}, tmp_path / "model.safetensors")
    module = nn.Module()
    for index in range(32):
        module.register_parameter(f"w{index}", nn.Parameter(torch.zeros(shape)))

    @torch.no_grad()
    def theirs() -> None:
        for name, tensor in load_file(tmp_path / "model.safetensors").items():
            module.get_parameter(name).copy_(tensor)

    def ours() -> None:
        load_weights(find_source(tmp_path), [module])

    def seconds_of(load: Callable[[], None]) -> float:
        started = time.process_time()
        load()
        return time.process_time() - started

    runs = [(seconds_of(ours), seconds_of(theirs)) for _ in range(6)][1:]

    assert min(own for own, _ in runs) < 1.2 * min(other for _, other in runs)
