"""Measure the newest checkpoint on the held-out files, and have it continue a prompt.

python examples/bytes_lm/infer.py --preset demo --run-folder runs/bytes_lm
"""

import argparse
import json
import logging
from pathlib import Path

from corpus import HeldOutWindows, read_corpus
from d9d.loop.config import InferenceConfig, ReportingConfig
from d9d.loop.control import InitializeDatasetResult
from d9d.loop.run import Inference, InferenceConfigurator
from model import BytesLM, continue_text
from preset import PRESETS, Preset
from task import BitsPerByteTask, BytesLMProvider

PROMPT = "def "


def configure(preset: Preset, source: Path | None, output: Path, device: str | None = None) -> Inference:
    """Assemble the measurement of a checkpoint, or of the untrained model."""
    held_out = HeldOutWindows(read_corpus(), preset.model.context_length)
    return InferenceConfigurator(
        config=InferenceConfig(
            global_batch_size=16,
            precision=preset.precision,
            source_checkpoint=source,
            device=device,
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
    parser.add_argument("--device", help="by default the accelerator where there is one")
    parser.add_argument("--untrained", action="store_true", help="measure the model as it is before training")
    parser.add_argument("--prompt", default=PROMPT, help="what to continue")
    parser.add_argument("--num-bytes", type=int, default=200, help="how many bytes to continue it by")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")

    source = None if arguments.untrained else arguments.run_folder / "checkpoints"
    output = arguments.run_folder / ("untrained.json" if arguments.untrained else "held_out.json")
    inference = configure(PRESETS[arguments.preset], source, output, arguments.device)
    inference.infer()
    report = json.loads(output.read_text(encoding="utf-8"))
    print(f"{report['bits_per_byte']:.3f} bits per byte over {len(report['files'])} held-out files, each in {output}")
    if not arguments.untrained:
        assert isinstance(inference.modules[0], BytesLM)
        text = continue_text(
            inference.modules[0], arguments.prompt.encode(), arguments.num_bytes, temperature=0.7, seed=0
        )
        print(f"continued from {arguments.prompt!r}:\n{text.decode(errors='replace')}")


if __name__ == "__main__":
    main()
