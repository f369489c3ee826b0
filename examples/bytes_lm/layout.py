"""Flags that say how processes divide the work."""

import argparse
import dataclasses
import logging
import os
from typing import Self, get_args

from torch import distributed

from d9d import DeviceMeshParameters, PipelineConfig, ScheduleName

_DIMENSIONS = ("pipeline_parallel", "data_parallel_replicate", "data_parallel_shard", "expert_parallel")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Layout:
    """How processes divide the work, and on which device.

    Attributes:
        device: The device; `None` is the accelerator if there is one.
        mesh: How processes divide the work.
        pipeline: The pipeline schedule.
    """

    device: str | None = None
    mesh: DeviceMeshParameters = dataclasses.field(default_factory=DeviceMeshParameters)
    pipeline: PipelineConfig = dataclasses.field(default_factory=PipelineConfig)

    @staticmethod
    def add_flags(parser: argparse.ArgumentParser) -> None:
        """Add the flags that `of` reads."""
        parser.add_argument("--device", help="by default the accelerator if there is one")
        group = parser.add_argument_group("processes", "how the processes of torchrun divide the work")
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
        """Return the layout of parsed flags.

        Args:
            arguments: The result of a parser with these flags.

        Returns:
            The layout.

        Raises:
            ValueError: If the mesh is impossible.
        """
        return cls(
            device=arguments.device,
            mesh=DeviceMeshParameters(**{name: getattr(arguments, name) for name in _DIMENSIONS}),
            pipeline=PipelineConfig(schedule=arguments.schedule),
        )


ONE_PROCESS = Layout()


def is_main_process() -> bool:
    """Return whether this is the process that prints."""
    return _rank() == 0


def start_logging() -> None:
    """Log everything from the main process, and only warnings from the others."""
    if is_main_process():
        logging.basicConfig(level=logging.INFO, format="%(message)s")
    else:
        logging.basicConfig(level=logging.WARNING, format=f"[rank {_rank()}] %(message)s")


def leave_processes() -> None:
    """Leave the process group once all processes are done."""
    if distributed.is_initialized():
        distributed.barrier()
        distributed.destroy_process_group()


def _rank() -> int:
    return int(os.environ.get("RANK", "0"))
