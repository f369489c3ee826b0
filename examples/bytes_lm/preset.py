"""The sizes of the example."""

import dataclasses

from d9d import Precision
from model import ModelConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class Preset:
    """A model, and how to train it.

    Attributes:
        model: The shape of the model.
        total_steps: The number of optimizer steps.
        global_batch_size: The number of windows in a step.
        micro_batch_size: The number of windows that go through the model at once.
        learning_rate: The learning rate at the end of the warm-up.
        warmup_steps: The number of steps of the warm-up.
        precision: The precision of forward passes.
        checkpoint_period_steps: How often to save, in steps.
        report_period_steps: How often to report losses and routing, in steps; `None` never does.
    """

    model: ModelConfig
    total_steps: int
    global_batch_size: int
    micro_batch_size: int
    learning_rate: float
    warmup_steps: int
    precision: Precision = "fp32"
    checkpoint_period_steps: int = 50
    report_period_steps: int | None = 20


PRESETS = {
    "tiny": Preset(
        model=ModelConfig(context_length=64, width=32, num_blocks=2, num_heads=2, num_experts=4, expert_width=32),
        total_steps=20,
        global_batch_size=8,
        micro_batch_size=2,
        learning_rate=3e-3,
        warmup_steps=5,
        checkpoint_period_steps=7,
        report_period_steps=5,
    ),
    "demo": Preset(
        model=ModelConfig(),
        total_steps=600,
        global_batch_size=8,
        micro_batch_size=4,
        learning_rate=8e-3,
        warmup_steps=20,
        checkpoint_period_steps=100,
        report_period_steps=50,
    ),
    "accelerator": Preset(
        model=ModelConfig(
            context_length=1024, width=768, num_blocks=12, num_heads=12, num_experts=16, expert_width=1024
        ),
        total_steps=2000,
        global_batch_size=64,
        micro_batch_size=32,
        learning_rate=6e-4,
        warmup_steps=100,
        precision="bf16-autocast",
        checkpoint_period_steps=500,
    ),
}
"""`tiny` takes seconds and `demo` minutes on two CPU cores; `accelerator` needs a GPU."""
