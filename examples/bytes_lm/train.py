"""Train the language model. Run it again to resume from the newest checkpoint.

python examples/bytes_lm/train.py --preset demo --run-folder runs/bytes_lm

With several processes, run the same under torchrun, with flags that say how they divide the work. The product of the
flags, except --expert-parallel, is the number of processes:

torchrun --nproc-per-node 2 examples/bytes_lm/train.py --data-parallel-shard 2
torchrun --nproc-per-node 4 examples/bytes_lm/train.py --preset tiny --data-parallel-replicate 2 --data-parallel-shard 2
torchrun --nproc-per-node 2 examples/bytes_lm/train.py --data-parallel-shard 2 --expert-parallel 2
torchrun --nproc-per-node 2 examples/bytes_lm/train.py --pipeline-parallel 2 --schedule zbv
"""

import argparse
import dataclasses
from functools import partial
from pathlib import Path

import torch
from torch import nn

from corpus import TrainingWindows, read_corpus
from d9d import (
    CheckpointingConfig,
    InitializeDatasetContext,
    InitializeDatasetResult,
    LRSchedule,
    OptimizerBuilder,
    ParameterGroup,
    ReportingConfig,
    Trainer,
    TrainingConfig,
    TrainingConfigurator,
    launch,
)
from layout import ONE_PROCESS, Layout, leave_processes, start_logging
from preset import PRESETS, Preset
from task import BytesLMProvider, LanguageModelTask


def provide_dataset(preset: Preset, ctx: InitializeDatasetContext) -> InitializeDatasetResult:
    return InitializeDatasetResult(dataset=TrainingWindows(read_corpus(), preset.model.context_length))


def is_vector(name: str, parameter: nn.Parameter) -> bool:
    return parameter.ndim <= 1


def configure(preset: Preset, run_folder: Path | None, layout: Layout = ONE_PROCESS) -> Trainer:
    """Configure the training of a preset. Checkpoints and reports go to the folder, if there is one."""
    checkpointing = None
    if run_folder is not None:
        checkpointing = CheckpointingConfig(
            folder=run_folder / "checkpoints", period_steps=preset.checkpoint_period_steps
        )
    return TrainingConfigurator(
        config=TrainingConfig(
            total_steps=preset.total_steps,
            global_batch_size=preset.global_batch_size,
            micro_batch_size=preset.micro_batch_size,
            precision=preset.precision,
            device=layout.device,
            mesh=layout.mesh,
            pipeline=layout.pipeline,
            checkpointing=checkpointing,
            reporting=ReportingConfig(
                period_steps=preset.report_period_steps,
                json_lines=None if run_folder is None else run_folder / "metrics.jsonl",
            ),
        ),
        task=LanguageModelTask(report_period_steps=preset.report_period_steps),
        model_provider=BytesLMProvider(preset.model),
        dataset_provider=partial(provide_dataset, preset),
        optimizer_provider=OptimizerBuilder(
            torch.optim.AdamW,
            lr=preset.learning_rate,
            betas=(0.9, 0.95),
            weight_decay=0.1,
            groups=[ParameterGroup(is_vector, weight_decay=0.0)],
        ),
        lr_scheduler_provider=LRSchedule.cosine(warmup_steps=preset.warmup_steps, final_fraction=0.1),
    ).configure()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", choices=PRESETS, default="demo")
    parser.add_argument("--run-folder", type=Path, default=Path("runs/bytes_lm"))
    parser.add_argument("--micro-batch-size", type=int, help="how many windows go through the model at once")
    Layout.add_flags(parser)
    arguments = parser.parse_args()
    start_logging()
    preset = PRESETS[arguments.preset]
    if arguments.micro_batch_size is not None:
        preset = dataclasses.replace(preset, micro_batch_size=arguments.micro_batch_size)
    configure(preset, arguments.run_folder, Layout.of(arguments)).train()
    leave_processes()


if __name__ == "__main__":
    launch(main)
