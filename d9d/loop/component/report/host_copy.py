"""Numbers on their way from the device to the host."""

from collections.abc import Sequence

import torch
from torch.distributed import Work


class HostCopy:
    """A copy, on the host, of tensors that are still computed or reduced; it makes nobody wait until it is read.

    Args:
        tensors: Flat tensors of one type on one device.
        works: The collective operations that complete them.
    """

    def __init__(self, tensors: Sequence[torch.Tensor], works: Sequence[Work]) -> None:
        self._tensors = tensors  # kept, since another stream reads them
        self._works = works
        self._stream = _new_stream(tensors[0].device)
        if self._stream is None:
            return
        self._event = torch.Event(device=self._stream.device)
        self._stream.wait_stream(torch.accelerator.current_stream(self._stream.device))
        with self._stream:
            for work in works:
                work.wait()  # here it is the stream that waits, and neither the host nor the stream of the model
            self._joined = torch.cat(list(tensors))
            self._host = torch.empty(self._joined.shape, dtype=self._joined.dtype, pin_memory=True)
            self._host.copy_(self._joined, non_blocking=True)
            self._event.record(self._stream)

    def is_ready(self) -> bool:
        """Say whether reading would not wait."""
        return all(work.is_completed() for work in self._works) if self._stream is None else self._event.query()

    def read(self) -> list[torch.Tensor]:
        """Return the tensors as they are on the host, after waiting for them if they are not ready.

        Returns:
            A tensor on the host for each tensor.
        """
        if self._stream is None:
            for work in self._works:
                work.wait()
            return [tensor.cpu() for tensor in self._tensors]
        self._event.synchronize()
        return list(torch.split(self._host, [len(tensor) for tensor in self._tensors]))


def has_streams(device: torch.device) -> bool:
    """Say whether work on a device goes on in streams, which the host need not wait for.

    Args:
        device: The device.

    Returns:
        Whether it does.
    """
    return device.type not in {"cpu", "meta", "mps"}


def _new_stream(device: torch.device) -> torch.Stream | None:
    """Make a stream on a device that has them: the CPU has none, and neither do Apple's and the meta device."""
    return torch.Stream(device=device) if has_streams(device) else None
