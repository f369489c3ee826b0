"""How the scripts spread over processes: flags, and what they mean."""

import argparse
import dataclasses
import logging
import os
from typing import Self, get_args

from torch import distributed

from d9d.core.pipeline import ScheduleName
from d9d.loop.config import DeviceMeshParameters, PipelineConfig

_DIMENSIONS = ("pipeline_parallel", "data_parallel_replicate", "data_parallel_shard", "expert_parallel")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Layout:
    """Where a script runs.

    Attributes:
        device: The device, or `None` for the accelerator where there is one.
        mesh: How processes divide the work.
        pipeline: How the stages of the model take turns.
    """

    device: str | None = None
    mesh: DeviceMeshParameters = dataclasses.field(default_factory=DeviceMeshParameters)
    pipeline: PipelineConfig = dataclasses.field(default_factory=PipelineConfig)

    @staticmethod
    def add_flags(parser: argparse.ArgumentParser) -> None:
        """Add the flags that `of` reads."""
        parser.add_argument("--device", help="by default the accelerator where there is one")
        group = parser.add_argument_group("processes", "what torchrun's processes do")
        for name in _DIMENSIONS:
            description = DeviceMeshParameters.model_fields[name].description
            group.add_argument(f"--{name.replace('_', '-')}", type=int, default=1, metavar="N", help=description)
        group.add_argument(
            "--schedule",
            choices=get_args(ScheduleName),
            default="1f1b",
            help=PipelineConfig.model_fields["schedule"].description,
        )

    @classmethod
    def of(cls, arguments: argparse.Namespace) -> Self:
        """Return what flags say.

        Args:
            arguments: What a parser with `add_flags` has read.

        Returns:
            The layout.

        Raises:
            ValueError: If there can be no such mesh.
        """
        return cls(
            device=arguments.device,
            mesh=DeviceMeshParameters(**{name: getattr(arguments, name) for name in _DIMENSIONS}),
            pipeline=PipelineConfig(schedule=arguments.schedule),
        )


ONE_PROCESS = Layout()


def is_main_process() -> bool:
    """Say whether this is the process that speaks to people."""
    return _rank() == 0


def start_logging() -> None:
    """Have the main process tell what it does, and the others only what is wrong."""
    if is_main_process():
        logging.basicConfig(level=logging.INFO, format="%(message)s")
    else:
        logging.basicConfig(level=logging.WARNING, format=f"[rank {_rank()}] %(message)s")


def leave_processes() -> None:
    """Part from the other processes, once all of them are done."""
    if distributed.is_initialized():
        distributed.barrier()
        distributed.destroy_process_group()


def _rank() -> int:
    return int(os.environ.get("RANK", "0"))
