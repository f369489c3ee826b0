"""What torch can do on each type of device, known without having one."""

import pytest
import torch

from d9d.core.device import accelerator_module, has_own_generator, has_streams

ACCELERATORS = ("cuda", "xpu", "mps")


@pytest.mark.parametrize("name", ACCELERATORS)
def test_an_accelerator_has_a_module_in_torch(name: str) -> None:
    """It is the one of its type."""
    assert accelerator_module(torch.device(name)) is getattr(torch, name)


@pytest.mark.parametrize("name", ["cpu", "meta"])
def test_the_cpu_and_the_meta_device_are_no_accelerators(name: str) -> None:
    """Though torch has a module named `torch.cpu`."""
    assert accelerator_module(torch.device(name)) is None


def test_cuda_and_xpu_have_streams() -> None:
    """The CPU, the meta device and Apple's have none."""
    names = ("cpu", "meta", "mps", "cuda", "xpu")

    assert [has_streams(torch.device(name)) for name in names] == [False, False, False, True, True]


def test_every_accelerator_has_a_generator_of_its_own() -> None:
    """The CPU's is the one that torch always has, and meta tensors hold no numbers."""
    names = ("cpu", "meta", *ACCELERATORS)

    assert [has_own_generator(torch.device(name)) for name in names] == [False, False, True, True, True]
