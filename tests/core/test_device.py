"""What torch can do on each type of device, known without having one."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import TypeAlias

import pytest
import torch

from d9d.core import device as device_module
from d9d.core.device import accelerator_module, choose_device, has_own_generator, has_streams, identify
from d9d.core.settings import ConfigurationError

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


Launch: TypeAlias = Callable[..., str]


@pytest.fixture
def launch(monkeypatch: pytest.MonkeyPatch) -> Launch:
    """Choose a device as a process does that sees some devices, with the environment variables of a launcher."""
    for name in (*device_module._LOCAL_RANK_VARIABLES, "LOCAL_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)

    def choose(num_devices: int, num_processes: int, **variables: int) -> str:
        current = torch.device("cuda", 0)
        monkeypatch.setattr(
            torch.accelerator, "current_accelerator", lambda check_available=False: torch.device("cuda")
        )
        monkeypatch.setattr(torch.accelerator, "device_count", lambda: num_devices)
        monkeypatch.setattr(torch.accelerator, "current_device_index", lambda: current.index)
        monkeypatch.setattr(torch.accelerator, "set_device_index", lambda chosen: None)
        for name, value in variables.items():
            monkeypatch.setenv(name, str(value))
        return str(choose_device(None, num_processes))

    return choose


@pytest.mark.parametrize(
    ("num_devices", "variables", "device"),
    [
        (8, {"LOCAL_RANK": 3, "LOCAL_WORLD_SIZE": 8}, "cuda:3"),  # torchrun
        (8, {"LOCAL_RANK": 3}, "cuda:3"),  # srun or mpirun, with the variables that torch documents
        (8, {"SLURM_LOCALID": 5}, "cuda:5"),
        (8, {"OMPI_COMM_WORLD_LOCAL_RANK": 6}, "cuda:6"),
        (8, {"LOCAL_RANK": 2, "SLURM_LOCALID": 0}, "cuda:2"),  # torchrun, which Slurm starts once on each machine
        (1, {"LOCAL_RANK": 0, "LOCAL_WORLD_SIZE": 8}, "cuda:0"),  # torchrun --virtual-local-rank
        (1, {"LOCAL_RANK": 7, "LOCAL_WORLD_SIZE": 8}, "cuda:0"),  # a launcher that shows each process its own device
        (8, {}, "cuda:0"),  # the current one, which the user may have set
    ],
)
def test_each_of_several_processes_uses_the_device_of_its_local_rank(
    launch: Launch, num_devices: int, variables: dict[str, int], device: str
) -> None:
    """Or the only one that it sees."""
    assert launch(num_devices, 16, **variables) == device


def test_a_single_process_uses_the_current_device(launch: Launch) -> None:
    """Whatever the launcher says."""
    assert launch(8, 1, LOCAL_RANK=3) == "cuda:0"


@pytest.mark.parametrize("variables", [{"LOCAL_RANK": 0, "LOCAL_WORLD_SIZE": 4}, {"LOCAL_RANK": 3}])
def test_more_processes_than_devices_are_refused(launch: Launch, variables: dict[str, int]) -> None:
    """With the number that fits."""
    with pytest.raises(ConfigurationError, match=r"at least 4 processes .* sees 2 cuda devices.*--nproc-per-node 2"):
        launch(2, 16, **variables)


def test_the_identity_of_a_device_does_not_depend_on_its_index(monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes that see one device each know it by the index 0."""
    properties = [SimpleNamespace(uuid="GPU-1", pci_bus_id=7), SimpleNamespace(uuid="GPU-2", pci_bus_id=8)]
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties[device.index])
    first, second = identify(torch.device("cuda", 0)), identify(torch.device("cuda", 1))

    assert first != second
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties[1])
    assert identify(torch.device("cuda", 0)) == second
    assert identify(torch.device("cpu")) is None
