"""The mesh: the dimensions along which the processes of a job divide the work."""

import math
import os
from typing import Any, Literal, Self, TypeAlias

from pydantic import ConfigDict, PositiveInt, model_validator
from pydantic.functional_validators import ModelWrapValidatorHandler
from torch import distributed

from d9d.core.settings import ConfigurationError, Settings

_AUTO = "auto"

MeshName: TypeAlias = Literal["dense", "batch", "expert", "loss"]
"""The meshes of a job; `DeviceMeshParameters.shape_of` describes each."""


def num_launched() -> int:
    """Return how many processes the launcher started, or how many are in the process group if there is one."""
    if distributed.is_initialized():
        return distributed.get_world_size()
    return int(os.environ.get("WORLD_SIZE", "1"))


def _accept_auto(schema: dict[str, Any]) -> None:
    """Add `auto` to the JSON schema of a mesh and of its `data_parallel_shard`."""
    del schema["type"]
    schema["anyOf"] = [{"type": "object"}, {"const": _AUTO}]
    size = schema["properties"]["data_parallel_shard"]
    size["anyOf"] = [{name: size.pop(name) for name in ("type", "exclusiveMinimum")}, {"const": _AUTO}]


class DeviceMeshParameters(Settings):
    """How many processes divide the work along each dimension.

    The product of all dimensions except `expert_parallel` is the number of processes. Neighbours along the last
    dimension, `tensor_parallel`, have consecutive ranks, so that those who communicate most are on one machine.
    """

    model_config = ConfigDict(json_schema_extra=_accept_auto)

    pipeline_parallel: PositiveInt = 1
    """Over how many processes the layers of the model are divided."""

    data_parallel_replicate: PositiveInt = 1
    """How many copies of the model there are, each with its own samples."""

    data_parallel_shard: PositiveInt = 1
    """Over how many processes each copy of the model is sharded, each process with its own samples. In a file, `auto`
    is the number of started processes divided by the product of the other dimensions. In Python, use
    `DeviceMeshParameters.auto()`."""

    context_parallel: PositiveInt = 1
    """Over how many processes each sequence is divided. They have the same samples, and shard the model as well."""

    tensor_parallel: PositiveInt = 1
    """Over how many processes each matrix is divided. They have the same samples."""

    expert_parallel: PositiveInt = 1
    """Over how many processes the experts of a layer are divided. It must divide the product of
    `data_parallel_replicate`, `data_parallel_shard` and `context_parallel`, whose processes hold the experts."""

    @classmethod
    def auto(
        cls,
        *,
        pipeline_parallel: int = 1,
        data_parallel_replicate: int = 1,
        context_parallel: int = 1,
        tensor_parallel: int = 1,
        expert_parallel: int = 1,
    ) -> Self:
        """Make a mesh of all processes that were started, with the others along `data_parallel_shard`.

        With one process and no arguments all dimensions are 1, so a script runs under `python` and under `torchrun`.
        The samples of a step are divided over all processes, and the model is sharded rather than replicated: it needs
        less memory for each process that is added, and what fits on one process always fits on several. Pass
        `data_parallel_replicate` for several copies, for example one per node.

        The number of processes is read when this is called, from the launcher, or from the process group if there is
        one.

        Args:
            pipeline_parallel: As the attribute of this name.
            data_parallel_replicate: As the attribute of this name.
            context_parallel: As the attribute of this name.
            tensor_parallel: As the attribute of this name.
            expert_parallel: As the attribute of this name.

        Returns:
            The mesh.

        Raises:
            ValueError: If the number of processes is not a multiple of the product of the other dimensions.
        """
        return cls.model_validate(
            {
                "pipeline_parallel": pipeline_parallel,
                "data_parallel_replicate": data_parallel_replicate,
                "data_parallel_shard": _AUTO,
                "context_parallel": context_parallel,
                "tensor_parallel": tensor_parallel,
                "expert_parallel": expert_parallel,
            }
        )

    @model_validator(mode="wrap")
    @classmethod
    def _derive_shards(cls, values: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        if values == _AUTO:
            values = {"data_parallel_shard": _AUTO}
        if isinstance(values, str | int):
            raise ValueError(  # noqa: TRY004 -- what pydantic takes
                f"{values!r} is no mesh: use 'auto' for all processes that were started, or the sizes of its "
                "dimensions by name"
            )
        if not isinstance(values, dict) or values.get("data_parallel_shard") != _AUTO:
            return handler(values)
        others = handler({**values, "data_parallel_shard": 1, "expert_parallel": 1})
        num_started = num_launched()
        if num_started % others.world_size:
            lower = num_started // others.world_size * others.world_size
            fitting = " or ".join(str(number) for number in (lower, lower + others.world_size) if number)
            raise ValueError(
                f"{_product(others)} needs a multiple of {_processes(others.world_size)}, and "
                f"{_processes(num_started)} {'was' if num_started == 1 else 'were'} started: start {fitting} "
                "(`torchrun --nproc-per-node` × `--nnodes`), or set other dimensions"
            )
        return handler({**values, "data_parallel_shard": num_started // others.world_size})

    @model_validator(mode="after")
    def _experts_divide(self) -> Self:
        num_processes = self.data_parallel_size * self.context_parallel
        if num_processes % self.expert_parallel:
            raise ValueError(
                f"expert_parallel={self.expert_parallel} does not divide the {num_processes} processes of "
                "data_parallel_replicate × data_parallel_shard × context_parallel, which hold the experts: use one of "
                f"{', '.join(str(number) for number in _divisors(num_processes))}"
            )
        return self

    @property
    def world_size(self) -> int:
        """How many processes the mesh needs."""
        return math.prod(self.shape_of("batch").values())

    @property
    def data_parallel_size(self) -> int:
        """Over how many processes a global batch is divided."""
        return self.data_parallel_replicate * self.data_parallel_shard

    def shape_of(self, name: MeshName) -> dict[str, int]:
        """Return the dimensions of a mesh. Each mesh has all processes.

        Args:
            name: `dense` is for parameters; its `data_parallel_shard` includes `context_parallel`. `batch` is for
                samples. `expert` is for the parameters of experts. `loss` is for sums over samples or tokens: its
                dimension `loss` has all processes except those of `tensor_parallel`, which count the same tokens.

        Returns:
            The size of each dimension by name, the outermost first.
        """
        match name:
            case "dense":
                inner = {
                    "data_parallel_replicate": self.data_parallel_replicate,
                    "data_parallel_shard": self.data_parallel_shard * self.context_parallel,
                }
            case "batch":
                inner = {"data_parallel": self.data_parallel_size, "context_parallel": self.context_parallel}
            case "expert":
                num_processes = self.data_parallel_size * self.context_parallel
                inner = {
                    "expert_replicate": num_processes // self.expert_parallel,
                    "expert_parallel": self.expert_parallel,
                }
            case "loss":
                size = self.pipeline_parallel * self.data_parallel_size * self.context_parallel
                return {"loss": size, "tensor_parallel": self.tensor_parallel}
        return {"pipeline_parallel": self.pipeline_parallel, **inner, "tensor_parallel": self.tensor_parallel}

    def require_world_size(self, num_started: int) -> None:
        """Check the number of processes.

        Args:
            num_started: How many processes run the job.

        Raises:
            ConfigurationError: If the mesh needs another number; the error says which settings would fit.
        """
        if num_started == self.world_size:
            return
        fitting = [
            f"{name}={num_started // others}"
            for name in _FACTORS
            if num_started % (others := self.world_size // getattr(self, name)) == 0
        ]
        remedy = f"start {self.world_size} (`torchrun --nproc-per-node` × `--nnodes`)" if self.world_size > 1 else ""
        alternatives = f"set {' or '.join(fitting)}" if fitting else ""
        raise ConfigurationError(
            f"the mesh is for {_processes(self.world_size)} ({_product(self)}), and {_processes(num_started)} "
            f"{'was' if num_started == 1 else 'were'} started: {', or '.join(filter(None, [remedy, alternatives]))}"
        )


_FACTORS = (
    "data_parallel_shard",
    "data_parallel_replicate",
    "pipeline_parallel",
    "context_parallel",
    "tensor_parallel",
)


def _product(mesh: DeviceMeshParameters) -> str:
    factors = {name: size for name in _FACTORS if (size := getattr(mesh, name)) > 1}
    return " × ".join(f"{name}={size}" for name, size in factors.items()) or "all dimensions 1"


def _divisors(number: int) -> list[int]:
    return [divisor for divisor in range(1, number + 1) if number % divisor == 0]


def _processes(number: int) -> str:
    return "one process" if number == 1 else f"{number} processes"
