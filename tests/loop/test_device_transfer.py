"""All tensors of a batch are moved to the device, and everything else is unchanged."""

import dataclasses
import weakref
from collections import OrderedDict, UserDict, defaultdict
from collections.abc import Iterator
from typing import Any, NamedTuple, NoReturn

import pytest
import torch
from streams import recorded_streams
from torch.utils.data._utils.pin_memory import pin_memory

from d9d.core.stepper import Stepper
from d9d.loop.component import data as data_module
from d9d.loop.component.data import DeviceTransfer, PinnableBatch, build_data_loader, choose_collate
from d9d.loop.component.sampler import DataShare, SequentialBatchSampler, SequentialSteps
from d9d.loop.control import InitializeDatasetResult

from .toy_job import ToyDataset, training_config

META = torch.device("meta")


class Pair(NamedTuple):
    left: torch.Tensor
    right: str


@dataclasses.dataclass(frozen=True)
class Sample:
    tokens: torch.Tensor
    names: list[str]
    length: int = dataclasses.field(init=False, default=3)


def on_cpu() -> torch.Tensor:
    return torch.ones(2)


def moved_to(device: torch.device, batch: Any) -> Any:
    """Move one micro-batch to a device."""
    return next(iter(DeviceTransfer(device).move([batch])))


def test_tensors_are_moved_at_any_depth() -> None:
    """In mappings, lists, tuples, named tuples and dataclasses."""
    batch = {
        "plain": on_cpu(),
        "listed": [on_cpu(), (on_cpu(),)],
        "pair": Pair(on_cpu(), "right"),
        "sample": Sample(on_cpu(), ["a", "b"]),
        "ordered": OrderedDict(inner=on_cpu()),
    }

    moved = moved_to(META, batch)

    assert moved["plain"].device == META
    assert moved["listed"][0].device == META
    assert moved["listed"][1][0].device == META
    assert isinstance(moved["pair"], Pair)
    assert moved["pair"].left.device == META
    assert isinstance(moved["sample"], Sample)
    assert moved["sample"].tokens.device == META
    assert moved["ordered"]["inner"].device == META
    assert batch["plain"] is not moved["plain"]


def test_anything_but_tensors_is_unchanged() -> None:
    """Strings, numbers, `None`, classes and other objects."""
    for value in ("text", 3, None, Sample, {1, 2}, b"raw"):
        assert moved_to(META, value) is value
    assert moved_to(META, Sample(on_cpu(), ["a"])).names == ["a"]


class Encoding(UserDict[str, torch.Tensor]):
    """As a `BatchEncoding` of transformers: a mapping with attributes of its own, which moves itself."""

    def __init__(self, data: dict[str, torch.Tensor], encodings: list[str]) -> None:
        super().__init__(data)
        self.encodings = encodings

    def __getattr__(self, name: str) -> torch.Tensor:
        try:
            return self.data[name]
        except KeyError:
            raise AttributeError(name) from None

    def to(self, device: torch.device, *, non_blocking: bool = False) -> "Encoding":
        self.data = {key: value.to(device, non_blocking=non_blocking) for key, value in self.data.items()}
        return self


class Graph:
    """An object that moves itself, and whose method knows one argument."""

    def __init__(self) -> None:
        self.nodes = on_cpu()
        self.counts = on_cpu()

    def to(self, device: torch.device) -> "Graph":
        self.nodes = self.nodes.to(device)
        return self


@pytest.mark.parametrize("kind", ["whole batch", "part of a batch"])
def test_objects_with_a_method_to_move_themselves_and_arrive_as_they_are(kind: str) -> None:
    """Such as a `BatchEncoding`, whose attributes stay, or a `PackedSequence`, whose lengths stay on the host."""
    packed = torch.nn.utils.rnn.pack_sequence([torch.ones(3), torch.ones(2)])

    def moved(each: Any) -> Any:
        return moved_to(META, each) if kind == "whole batch" else moved_to(META, {"inputs": [each]})["inputs"][0]

    encoding = moved(Encoding({"ids": on_cpu()}, ["first"]))
    assert isinstance(encoding, Encoding)
    assert (encoding.ids.device, encoding.encodings) == (META, ["first"])
    graph = moved(Graph())
    assert (graph.nodes.device, graph.counts.device) == (META, torch.device("cpu"))
    found = moved(packed)
    assert isinstance(found, torch.nn.utils.rnn.PackedSequence)
    assert (found.data.device, found.batch_sizes.device) == (META, torch.device("cpu"))


def test_an_object_whose_method_to_returns_nothing_is_refused() -> None:
    """It would arrive as None."""

    class Forgetful:
        def to(self, device: torch.device) -> None: ...

    with pytest.raises(TypeError, match=r"Forgetful\.to, .* returned None: let it return the moved object"):
        moved_to(META, Forgetful())


class Strict(dict[str, torch.Tensor]):
    """A mapping with a constructor and an attribute of its own."""

    def __init__(self, name: str, tensor: torch.Tensor) -> None:
        super().__init__(tensor=tensor)
        self.name = name


@dataclasses.dataclass
class Output(OrderedDict[str, torch.Tensor]):
    """As a `ModelOutput` of transformers: a dataclass that is a mapping too."""

    logits: torch.Tensor

    def __post_init__(self) -> None:
        super().update(logits=self.logits)

    def update(self, *args: object, **kwargs: object) -> NoReturn:
        raise NotImplementedError


def test_mappings_keep_their_type() -> None:
    """And their order, their attributes, and the default of a `defaultdict`; the one that was given is unchanged."""
    ordered: OrderedDict[str, torch.Tensor] = OrderedDict(b=on_cpu(), a=on_cpu())
    counted: defaultdict[str, Any] = defaultdict(int, tensor=on_cpu())
    strict = Strict("name", on_cpu())

    moved = moved_to(META, {"ordered": ordered, "counted": counted, "strict": strict, "output": Output(on_cpu())})

    assert isinstance(moved["ordered"], OrderedDict)
    assert [*moved["ordered"]] == ["b", "a"]
    assert moved["counted"]["missing"] == 0
    assert isinstance(moved["strict"], Strict)
    assert moved["strict"].name == "name"
    assert isinstance(moved["output"], Output)
    arrived = [moved["ordered"]["a"], moved["counted"]["tensor"], moved["strict"]["tensor"], moved["output"].logits]
    assert {tensor.device for tensor in (*arrived, moved["output"]["logits"])} == {META}
    assert {ordered["a"].device, counted["tensor"].device, strict["tensor"].device} == {torch.device("cpu")}


def test_tensors_on_the_device_are_not_copied() -> None:
    """On a CPU moving does nothing."""
    tensor = on_cpu()

    assert moved_to(torch.device("cpu"), {"tensor": tensor})["tensor"] is tensor


def test_a_micro_batch_that_was_moved_is_gone_from_the_host() -> None:
    """Also while the next one is not requested yet."""
    read: list[weakref.ref[torch.Tensor]] = []

    def read_one(_: int) -> list[torch.Tensor]:
        tensor = on_cpu()
        read.append(weakref.ref(tensor))
        return [tensor]

    moved = DeviceTransfer(META).move(map(read_one, range(2)))
    next(moved)

    assert [each() for each in read] == [None]


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_a_micro_batch_is_read_and_moved_when_it_is_requested(device: str) -> None:
    """So there is only one on the device at a time."""
    read: list[int] = []

    def micro_batches() -> Iterator[dict[str, torch.Tensor]]:
        for number in range(3):
            read.append(number)
            yield {"tensor": on_cpu()}

    read_by_batch = [
        (batch["tensor"].device.type, list(read))
        for batch in DeviceTransfer(torch.device(device)).move(micro_batches())
    ]

    assert read_by_batch == [(device, [0]), (device, [0, 1]), (device, [0, 1, 2])]


@pytest.fixture
def pinned(monkeypatch: pytest.MonkeyPatch) -> list[torch.Tensor]:
    """Pin tensors as torch does on a machine with an accelerator: only those that are dense and on the CPU."""
    found: list[torch.Tensor] = []

    def pin(tensor: torch.Tensor) -> torch.Tensor:
        if not tensor.is_cpu or tensor.layout != torch.strided:
            raise RuntimeError("only dense CPU tensors can be pinned")
        found.append(tensor)
        return tensor

    monkeypatch.setattr(torch.Tensor, "pin_memory", pin)
    return found


def test_all_tensors_of_a_batch_that_can_be_pinned_are_pinned(pinned: list[torch.Tensor]) -> None:
    """Also in dataclasses, into which torch does not look; those on a device and sparse ones are left alone."""
    sample = Sample(on_cpu(), ["a", "b"])
    others = {"on device": torch.ones(2, device=META), "sparse": torch.eye(3).to_sparse()}
    data = InitializeDatasetResult(dataset=ToyDataset(), collate=lambda samples: {"sample": sample, **others})
    with recorded_streams(data_module):
        collate = choose_collate(data, torch.device("cpu"))
    assert collate is not None
    found = pin_memory(collate([]))  # type: ignore[no-untyped-call] # torch's own

    assert [tensor is sample.tokens for tensor in pinned] == [True]
    assert found["sample"].tokens is sample.tokens
    assert all(found[name] is tensor for name, tensor in others.items())


def test_a_batch_that_pins_itself_does_so(pinned: list[torch.Tensor]) -> None:
    """As torch's data loader has it."""

    class Own:
        def pin_memory(self) -> str:
            return "pinned"

    assert pin_memory(PinnableBatch(Own())) == "pinned"  # type: ignore[no-untyped-call] # torch's own
    assert pinned == []


def test_a_mapping_that_is_pinned_keeps_its_type(pinned: list[torch.Tensor]) -> None:
    """It has no method for it, so its tensors are pinned, wherever it is in the batch."""
    (found,) = pin_memory(PinnableBatch([Encoding({"ids": on_cpu()}, ["first"])]))  # type: ignore[no-untyped-call] # torch's own

    assert isinstance(found, Encoding)
    assert found.encodings == ["first"]
    assert found.ids is pinned[0]


def test_without_an_accelerator_batches_are_not_wrapped() -> None:
    """The function of the user is used as it is."""
    data = InitializeDatasetResult(dataset=ToyDataset(), collate=len)

    assert choose_collate(data, torch.device("cpu")) is len


def test_only_dense_tensors_are_copied_on_the_stream_of_the_copies(monkeypatch: pytest.MonkeyPatch) -> None:
    """Torch cannot record a stream for sparse tensors. Those that are on the device are not touched."""
    used: list[torch.Tensor] = []

    def record_stream(tensor: torch.Tensor, stream: object) -> None:
        if tensor.layout != torch.strided:
            raise NotImplementedError(
                "Could not run 'aten::record_stream' with arguments from the 'SparseCUDA' backend"
            )
        used.append(tensor)

    monkeypatch.setattr(torch.Tensor, "record_stream", record_stream)
    here = torch.ones(2, device=META)
    with recorded_streams(data_module) as recorded:
        (moved,) = DeviceTransfer(META).move([{"dense": on_cpu(), "sparse": torch.eye(3).to_sparse(), "here": here}])

    assert used == [moved["dense"]]
    assert moved["here"] is here
    assert moved["sparse"].device == META
    assert recorded.calls == ["stream0.enter", "stream0.exit", "computing.wait_stream(stream0)"]


def test_objects_that_move_themselves_are_copied_on_the_stream_of_the_computation() -> None:
    """Torch cannot record a stream for what is not seen. The host does not wait for the copy."""
    calls: list[str] = []

    class Listening:
        def to(self, device: torch.device, *, non_blocking: bool = False) -> "Listening":
            calls.append(f"to({device}, non_blocking={non_blocking}) after {recorded.calls[-1]}")
            return self

    with recorded_streams(data_module) as recorded:
        next(DeviceTransfer(META).move([{"own": Listening()}]))

    assert calls == ["to(meta, non_blocking=True) after computing.wait_stream(stream0)"]


needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no CUDA device")


def pinned_and_warm(transfer: DeviceTransfer, tensors: list[torch.Tensor]) -> list[torch.Tensor]:
    """Pin tensors, and move one of them.

    To allocate memory, on the host or on the device, may make the host wait for all that the device does.
    """
    found = [tensor.pin_memory() for tensor in tensors]
    list(transfer.move(found[:1]))
    torch.cuda.synchronize()
    return found


def keep_busy() -> None:
    """Keep the current stream busy for some tenths of a second."""
    torch.cuda._sleep(500_000_000)  # type: ignore[no-untyped-call]  # torch's own


@pytest.mark.gpu
@needs_gpu
def test_copies_overlap_with_computations() -> None:
    """They finish while the stream of the computations is busy, and the host does not wait."""
    device = torch.device("cuda", torch.cuda.current_device())
    busy = torch.Event(device)
    transfer = DeviceTransfer(device)
    (tensor,) = pinned_and_warm(transfer, [torch.arange(1000)])
    keep_busy()
    busy.record()

    (batch,) = transfer.move([{"tensor": tensor}])
    assert transfer._stream is not None
    transfer._stream.synchronize()
    assert not busy.query()

    assert batch["tensor"].device == device
    assert torch.equal(batch["tensor"].cpu(), torch.arange(1000))


@pytest.mark.gpu
@needs_gpu
def test_computations_wait_for_the_copies_that_they_use() -> None:
    """Even if the copies are late."""
    device = torch.device("cuda", torch.cuda.current_device())
    transfer = DeviceTransfer(device)
    assert transfer._stream is not None
    tensors = pinned_and_warm(transfer, [torch.full((1000,), number) for number in range(3)])
    with transfer._stream:
        keep_busy()

    moved = transfer.move([{"tensor": tensor} for tensor in tensors])

    assert [int(batch["tensor"].sum()) for batch in moved] == [0, 1000, 2000]


@pytest.mark.gpu
@needs_gpu
def test_memory_is_not_reused_before_the_computations_have_read_it() -> None:
    """The host drops a micro-batch long before the device uses it."""
    device = torch.device("cuda", torch.cuda.current_device())
    transfer = DeviceTransfer(device)
    sums = []
    tensors = pinned_and_warm(transfer, [torch.full((100_000,), number) for number in range(8)])
    keep_busy()
    for tensor in tensors:
        for batch in transfer.move([tensor]):
            sums.append(batch.sum())  # noqa: PERF401 -- each before the next is sent

    assert [int(found) for found in sums] == [number * 100_000 for number in range(8)]


@dataclasses.dataclass
class Mixed:
    dense: torch.Tensor
    sparse: torch.Tensor
    here: torch.Tensor


@pytest.mark.gpu
@needs_gpu
def test_batches_with_all_kinds_of_tensors_reach_the_device() -> None:
    """Through torch's data loader, which pins what can be pinned."""
    device = torch.device("cuda", torch.cuda.current_device())
    here = torch.ones(3, device=device)

    def collate(samples: list[Any]) -> Mixed:
        return Mixed(torch.stack([sample["features"] for sample in samples]), torch.eye(3).to_sparse(), here)

    data = InitializeDatasetResult(dataset=ToyDataset(), collate=collate)
    sampler = SequentialBatchSampler(SequentialSteps(12, 4), micro_batch_size=4, stepper=Stepper(3), share=DataShare())
    loader = build_data_loader(data, sampler, training_config(), device)
    pinned = list(loader)
    moved = list(DeviceTransfer(device).move(pinned))

    assert [batch.dense.is_pinned() for batch in pinned] == [True] * 3
    assert all(batch.here is here for batch in moved)
    assert {tensor.device for batch in moved for tensor in (batch.dense, batch.sparse)} == {device}
    assert torch.equal(torch.cat([batch.dense for batch in moved]).cpu(), ToyDataset().features)
