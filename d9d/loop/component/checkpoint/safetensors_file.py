"""Files in the format of safetensors: a header in JSON, and the bytes of each tensor.

The package of that name takes all tensors of a file at once; here one at a time is in memory. The format:
<https://github.com/huggingface/safetensors#format>.
"""

import ctypes
import dataclasses
import json
import math
import os
from collections.abc import Callable, Mapping
from pathlib import Path

import torch

_NUM_LENGTH_BYTES = 8
_ALIGNMENT_BYTES = 8
_METADATA = "__metadata__"
_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U64": torch.uint64,
    "U32": torch.uint32,
    "U16": torch.uint16,
    "U8": torch.uint8,
    "BOOL": torch.bool,
    "C64": torch.complex64,
}
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}

INDEX = "model.safetensors.index.json"


@dataclasses.dataclass(frozen=True)
class TensorDescription:
    """A tensor without its numbers.

    Attributes:
        dtype: The format of its numbers.
        shape: Its shape.
    """

    dtype: torch.dtype
    shape: tuple[int, ...]

    @property
    def num_bytes(self) -> int:
        """How many bytes its numbers take."""
        return math.prod(self.shape) * self.dtype.itemsize


@dataclasses.dataclass(frozen=True)
class StoredTensor:
    """A tensor in a file.

    Attributes:
        file: The file.
        description: What it is.
        start: Where its bytes begin in the file.
    """

    file: Path
    description: TensorDescription
    start: int

    def map(self) -> torch.Tensor:
        """Return the tensor, of which nothing is read before it is used."""
        stop = self.start + self.description.num_bytes
        if stop == self.start:
            return torch.empty(self.description.shape, dtype=self.description.dtype)
        content = torch.from_file(str(self.file), shared=False, size=stop, dtype=torch.uint8)[self.start :]
        if self.start % self.description.dtype.itemsize:  # no writer of ours
            content = content.clone()
        return content.view(self.description.dtype).view(self.description.shape)


def write_safetensors(
    path: Path, tensors: Mapping[str, TensorDescription], read: Callable[[str], torch.Tensor]
) -> None:
    """Write a file, with one tensor at a time in memory; it is on disk when this returns.

    Args:
        path: The file.
        tensors: What will be written, by name.
        read: Returns the tensor of a name, on the CPU.

    Raises:
        OSError: If the file cannot be written.
        TypeError: If the format has no name for the numbers of a tensor.
    """
    # The widest numbers first: all of them then begin where a program can use them in place.
    names = sorted(tensors, key=lambda name: (-tensors[name].dtype.itemsize, name))
    with path.open("wb") as file:
        file.write(_header(names, tensors))
        for name in names:
            tensor = read(name).contiguous()
            file.write((ctypes.c_char * tensors[name].num_bytes).from_address(tensor.data_ptr()))
        file.flush()
        os.fsync(file.fileno())


def read_safetensors(path: Path) -> tuple[dict[str, StoredTensor], bytes]:
    """Read which tensors a file holds.

    Args:
        path: The file.

    Returns:
        The tensors by name, and the header as it is.

    Raises:
        OSError: If the file cannot be read.
        ValueError: If it is of another format, or shorter or longer than it says.
    """
    with path.open("rb") as file:
        num_bytes = os.fstat(file.fileno()).st_size
        length = int.from_bytes(file.read(_NUM_LENGTH_BYTES), "little")
        if length > num_bytes - _NUM_LENGTH_BYTES:
            raise ValueError(f"{path} is no safetensors file, or has been cut off")
        header = file.read(length)
    start = _NUM_LENGTH_BYTES + length
    entries = {name: entry for name, entry in json.loads(header).items() if name != _METADATA}
    try:
        found = {name: _stored(path, entry, start) for name, entry in entries.items()}
    except (LookupError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} has a header that is no safetensors header ({error})") from error
    end = max((tensor.start + tensor.description.num_bytes for tensor in found.values()), default=start)
    if end != num_bytes:
        raise ValueError(f"{path} has {num_bytes} bytes instead of {end}")
    return found, header


def _header(names: list[str], tensors: Mapping[str, TensorDescription]) -> bytes:
    header: dict[str, object] = {_METADATA: {"format": "pt"}}
    end = 0
    for name in names:
        described = tensors[name]
        if described.dtype not in _NAMES:
            raise TypeError(f"{name!r} is of {described.dtype}, for which safetensors has no name: export it otherwise")
        start, end = end, end + described.num_bytes
        header[name] = {"dtype": _NAMES[described.dtype], "shape": described.shape, "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _ALIGNMENT_BYTES)
    return len(text).to_bytes(_NUM_LENGTH_BYTES, "little") + text


def _stored(path: Path, entry: Mapping[str, list[int]], start: int) -> StoredTensor:
    described = TensorDescription(_DTYPES[str(entry["dtype"])], tuple(entry["shape"]))
    first, last = entry["data_offsets"]
    if last - first != described.num_bytes:
        raise TypeError(f"a tensor of {described} has {last - first} bytes")
    return StoredTensor(path, described, start + first)
