"""All tensors of a batch go to the device, and everything else stays as it is."""

import dataclasses
from collections import OrderedDict
from typing import NamedTuple

import torch

from d9d.loop.component.device_transfer import move_to_device

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


def test_tensors_are_moved_at_any_depth() -> None:
    """In mappings, lists, tuples, named tuples and dataclasses."""
    batch = {
        "plain": on_cpu(),
        "listed": [on_cpu(), (on_cpu(),)],
        "pair": Pair(on_cpu(), "right"),
        "sample": Sample(on_cpu(), ["a", "b"]),
        "ordered": OrderedDict(inner=on_cpu()),
    }

    moved = move_to_device(batch, META)

    assert moved["plain"].device == META
    assert moved["listed"][0].device == META
    assert moved["listed"][1][0].device == META
    assert isinstance(moved["pair"], Pair)
    assert moved["pair"].left.device == META
    assert isinstance(moved["sample"], Sample)
    assert moved["sample"].tokens.device == META
    assert moved["ordered"]["inner"].device == META
    assert batch["plain"] is not moved["plain"]


def test_what_is_no_tensor_stays_as_it_is() -> None:
    """Strings, numbers, `None`, classes and objects of other kinds."""
    for value in ("text", 3, None, Sample, {1, 2}, b"raw"):
        assert move_to_device(value, META) is value
    assert move_to_device(Sample(on_cpu(), ["a"]), META).names == ["a"]


def test_tensors_that_are_there_already_are_not_copied() -> None:
    """On a CPU moving costs nothing."""
    tensor = on_cpu()

    assert move_to_device({"tensor": tensor}, torch.device("cpu"))["tensor"] is tensor
