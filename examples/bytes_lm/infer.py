"""Evaluate the newest checkpoint on the held-out files, and continue a prompt with it.

python examples/bytes_lm/infer.py --preset demo --run-folder runs/bytes_lm

With several processes, run the same under torchrun, with the flags of train.py. Prompts are continued only on one.
"""

import argparse
import json
import logging
from pathlib import Path

from torch import nn

from corpus import HeldOutWindows, read_corpus
from d9d import Inference, InferenceConfig, InferenceConfigurator, InitializeDatasetResult, ReportingConfig, launch
from layout import ONE_PROCESS, Layout, is_main_process, leave_processes, start_logging
from model import BytesLM, continue_text
from preset import PRESETS, Preset
from task import BitsPerByteTask, BytesLMProvider

logger = logging.getLogger(__name__)

PROMPT = "def "
GLOBAL_BATCH_SIZE = 16


def configure(preset: Preset, source: Path | None, output: Path, layout: Layout = ONE_PROCESS) -> Inference:
    """Configure the evaluation of a checkpoint, or of the untrained model."""
    held_out = HeldOutWindows(read_corpus(), preset.model.context_length, multiple_of=GLOBAL_BATCH_SIZE)
    return InferenceConfigurator(
        config=InferenceConfig(
            global_batch_size=GLOBAL_BATCH_SIZE,
            precision=preset.precision,
            source_checkpoint=source,
            device=layout.device,
            mesh=layout.mesh,
            pipeline=layout.pipeline,
            reporting=ReportingConfig(period_steps=100, json_lines=output.parent / "metrics.jsonl"),
        ),
        task=BitsPerByteTask(held_out, output),
        model_provider=BytesLMProvider(preset.model),
        dataset_provider=lambda ctx: InitializeDatasetResult(dataset=held_out),
    ).configure()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", choices=PRESETS, default="demo")
    parser.add_argument("--run-folder", type=Path, default=Path("runs/bytes_lm"))
    parser.add_argument("--untrained", action="store_true", help="evaluate the model as it is before training")
    parser.add_argument("--prompt", default=PROMPT, help="the text to continue")
    parser.add_argument("--num-bytes", type=int, default=200, help="how many bytes to add to the prompt")
    Layout.add_flags(parser)
    arguments = parser.parse_args()
    start_logging()

    source = None if arguments.untrained else arguments.run_folder / "checkpoints"
    output = arguments.run_folder / ("untrained.json" if arguments.untrained else "held_out.json")
    layout = Layout.of(arguments)
    inference = configure(PRESETS[arguments.preset], source, output, layout)
    inference.infer()
    if is_main_process():
        show_report(output)
    if layout.mesh.world_size > 1:
        logger.info("the prompt is not continued, since no process has the whole model: run infer.py on one for that")
    elif not arguments.untrained:
        show_continuation(inference.modules[0], arguments.prompt, arguments.num_bytes)
    leave_processes()


def show_report(output: Path) -> None:
    report = json.loads(output.read_text(encoding="utf-8"))
    print(f"{report['bits_per_byte']:.3f} bits per byte over {len(report['files'])} held-out files, each in {output}")


def show_continuation(model: nn.Module, prompt: str, num_bytes: int) -> None:
    assert isinstance(model, BytesLM)
    text = continue_text(model, prompt.encode(), num_bytes, temperature=0.7, seed=0)
    print(f"continued from {prompt!r}:\n{text.decode(errors='replace')}")


if __name__ == "__main__":
    launch(main)
