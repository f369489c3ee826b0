"""The language model example trains exactly like a hand-written loop."""

import dataclasses
import json
import math
from pathlib import Path

import pytest
import torch
from torch.nn import functional

import infer
import train
from corpus import HeldOutWindows, SourceFile, TrainingWindows, read_corpus
from d9d.loop.control import ComputeLossContext, ComputeLossResult, TrainTask
from d9d.loop.event.catalogue.train import EVENT_TRAIN_STEP_POST, EventStepContext
from experts import MixtureOfExperts
from layers import INITIAL_STD, Projection
from layout import Layout
from model import BytesLM, continue_text
from preset import PRESETS, Preset

TINY = PRESETS["tiny"]
NUM_STEPS = 20
CPU = Layout(device="cpu")


class RecordingTask(TrainTask):
    """Wraps a task and records each loss that it computes."""

    def __init__(self, task: TrainTask) -> None:
        self.task = task
        self.losses: list[float] = []

    def compute_loss(self, ctx: ComputeLossContext) -> ComputeLossResult:
        result = self.task.compute_loss(ctx)
        self.losses.append(result.loss.item())
        return result


def train_with_d9d(preset: Preset, folder: Path) -> tuple[list[float], dict[str, torch.Tensor]]:
    trainer = train.configure(preset, folder, CPU)
    trainer.task = task = RecordingTask(trainer.task)
    trainer.train()
    return task.losses, trainer.modules[0].state_dict()


def train_by_hand(preset: Preset, folder: Path) -> tuple[list[float], dict[str, torch.Tensor]]:
    """Train without d9d's loop, with the batches and initial weights of the example."""
    trainer = train.configure(preset, folder, CPU)
    micro_batches = list(trainer._loop.data_loader)
    num_micro_batches = preset.global_batch_size // preset.micro_batch_size
    model = BytesLM(preset.model)
    model.load_state_dict(trainer.modules[0].state_dict())
    optimizer = torch.optim.AdamW(
        [
            {"params": [p for p in model.parameters() if p.ndim > 1], "weight_decay": 0.1},
            {"params": [p for p in model.parameters() if p.ndim <= 1], "weight_decay": 0.0},
        ],
        lr=preset.learning_rate,
        betas=(0.9, 0.95),
        fused=True,
    )
    losses = []
    for step in range(preset.total_steps):
        if step < preset.warmup_steps:
            factor = (step + 1) / preset.warmup_steps
        else:
            progress = (step - preset.warmup_steps) / (preset.total_steps - preset.warmup_steps)
            factor = 0.1 + 0.45 * (1 + math.cos(math.pi * progress))
        for group in optimizer.param_groups:
            group["lr"] = preset.learning_rate * factor
        for batch in micro_batches[step * num_micro_batches : (step + 1) * num_micro_batches]:
            logits = model(batch["tokens"])
            loss = functional.cross_entropy(logits.flatten(0, 1), batch["targets"].flatten())
            torch.autograd.backward(loss / num_micro_batches)
            losses.append(loss.item())
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        for layer in model.modules():
            if isinstance(layer, MixtureOfExperts):
                layer.balance_load(layer.step_counts, 0.01)
        optimizer.zero_grad()
    return losses, model.state_dict()


@pytest.mark.parametrize("name", ["tiny", pytest.param("demo", marks=pytest.mark.slow)])
def test_losses_and_weights_equal_those_of_a_hand_written_loop(name: str, tmp_path: Path) -> None:
    """In fp32 on a CPU, every loss and weight of twenty steps is bit-identical."""
    preset = dataclasses.replace(PRESETS[name], total_steps=NUM_STEPS, warmup_steps=5)
    expected_losses, expected_weights = train_by_hand(preset, tmp_path / "by_hand")

    losses, weights = train_with_d9d(preset, tmp_path / "with_d9d")

    assert len(expected_losses) == NUM_STEPS * preset.global_batch_size // preset.micro_batch_size
    assert expected_losses == losses
    assert expected_weights.keys() == weights.keys()
    for weight_name, expected in expected_weights.items():
        assert torch.equal(expected, weights[weight_name]), weight_name


def test_a_resumed_run_ends_like_an_uninterrupted_one(tmp_path: Path) -> None:
    """After a failure `train.py` resumes from its newest checkpoint and ends with bit-identical weights."""
    _, expected = train_with_d9d(TINY, tmp_path / "undisturbed")

    def fail(ctx: EventStepContext) -> None:
        if ctx.stepper.current_step == 11:
            raise InterruptedError

    trainer = train.configure(TINY, tmp_path / "disturbed", CPU)
    trainer.event_bus.subscribe(EVENT_TRAIN_STEP_POST, fail)
    with pytest.raises(InterruptedError):
        trainer.train()
    losses, weights = train_with_d9d(TINY, tmp_path / "disturbed")

    assert len(losses) == (TINY.total_steps - TINY.checkpoint_period_steps) * 4
    assert all(torch.equal(value, weights[name]) for name, value in expected.items())


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    train_with_d9d(TINY, folder)
    return folder


@pytest.fixture
def small_corpus(monkeypatch: pytest.MonkeyPatch) -> list[SourceFile]:
    """Three short held-out files, so that inference is quick."""
    held_out = sorted((file for file in read_corpus() if file.is_held_out), key=lambda file: len(file.content))[:3]
    monkeypatch.setattr(infer, "read_corpus", lambda: held_out)
    return held_out


def test_inference_writes_the_bits_per_byte_of_each_held_out_file(
    trained: Path, small_corpus: list[SourceFile], tmp_path: Path
) -> None:
    """The report equals the cross entropy computed by hand for each window."""
    inference = infer.configure(TINY, trained / "checkpoints", tmp_path / "report.json", CPU)
    inference.infer()
    report = json.loads((tmp_path / "report.json").read_text())

    model = inference.modules[0]
    length = TINY.model.context_length
    for file in small_corpus:
        tokens = file.tokens()
        nats = 0.0
        for start in range(0, len(file.content), length):
            window = tokens[start : start + length + 1]
            logits = model(window[None, :-1])[0]
            nats += functional.cross_entropy(logits, window[1:], reduction="sum").item()
        assert nats / math.log(2) / len(file.content) == pytest.approx(report["files"][file.name], rel=1e-4)
    assert report["num_bytes"] == sum(len(file.content) for file in small_corpus)


@pytest.mark.usefixtures("small_corpus")
def test_training_lowers_the_bits_per_byte(trained: Path, tmp_path: Path) -> None:
    """An untrained model needs log2(257) bits per byte; after twenty steps it needs fewer than 7."""
    reports = []
    for source in (None, trained / "checkpoints"):
        infer.configure(TINY, source, tmp_path / "report.json", CPU).infer()
        reports.append(json.loads((tmp_path / "report.json").read_text())["bits_per_byte"])

    assert reports[0] == pytest.approx(math.log2(257), rel=1e-3)
    assert reports[1] < 7.0


def test_training_and_held_out_files_are_disjoint() -> None:
    """The training windows contain no held-out file, and under a tenth of the files are held out."""
    corpus = read_corpus()
    held_out = HeldOutWindows(corpus, 64)
    training = TrainingWindows([*corpus], 64)

    assert 0 < len(held_out.files) < len(corpus) / 10
    num_training_tokens = sum(1 + len(file.content) for file in corpus if not file.is_held_out)
    assert len(training) == (num_training_tokens - 1) // 64
    assert {file.name for file in held_out.files} == {file.name for file in corpus if file.is_held_out}


def test_weights_are_initialised_as_in_gpt_2() -> None:
    """The std of projections into the residual stream is divided by `sqrt(2 * num_blocks)`; the head is zero."""
    weights = train.configure(TINY, None, CPU).modules[0].state_dict()

    smaller = INITIAL_STD / math.sqrt(2 * TINY.model.num_blocks)
    for name, weight in weights.items():
        if name.endswith(("norm.weight", "bias")):
            assert torch.equal(weight, torch.full_like(weight, "norm" in name)), name
        elif name == "head.weight":
            assert torch.equal(weight, torch.zeros_like(weight))
        else:
            ends_in_stream = name.endswith(("attention.output.weight", "experts.down"))
            assert weight.std().item() == pytest.approx(smaller if ends_in_stream else INITIAL_STD, rel=0.15), name


def test_grouped_experts_equal_a_loop_over_experts() -> None:
    """The output of grouped matrix products over sorted tokens equals the weighted sum of each expert's output."""
    torch.manual_seed(1)
    layer = MixtureOfExperts(width=16, hidden_width=8, num_experts=4, top_k=2, output_std=1.0)
    torch.nn.init.normal_(layer.experts.gate_and_up)
    features = torch.randn(3, 5, 16)

    scores = layer.router(features).sigmoid()
    choices = scores.topk(2).indices
    weights = scores.gather(-1, choices) / scores.gather(-1, choices).sum(-1, keepdim=True)
    every = torch.stack(
        [
            (functional.silu(gate) * up) @ layer.experts.down[expert]
            for expert in range(4)
            for gate, up in [(features @ layer.experts.gate_and_up[expert]).chunk(2, dim=-1)]
        ],
        dim=-2,
    )
    expected = (weights.unsqueeze(-1) * every.gather(-2, choices.unsqueeze(-1).expand(-1, -1, -1, 16))).sum(-2)

    torch.testing.assert_close(layer(features), expected)
    assert layer.step_counts.sum() == 3 * 5 * 2


def test_attention_is_causal() -> None:
    """Changing a token changes no logits before it."""
    torch.manual_seed(1)
    model = BytesLM(TINY.model).eval()
    assert isinstance(model.head, Projection)
    torch.nn.init.normal_(model.head.weight)
    tokens = torch.randint(256, (1, 32))
    changed = tokens.clone()
    changed[0, 20] += 1

    before, after = model(tokens)[0], model(changed)[0]

    torch.testing.assert_close(before[:20], after[:20])
    assert not torch.allclose(before[20:], after[20:])


def test_a_prompt_is_continued_by_the_given_number_of_bytes() -> None:
    """The text starts with the prompt, has the requested length, and depends only on the seed."""
    torch.manual_seed(1)
    model = BytesLM(TINY.model).eval()

    assert len(continue_text(model, b"", 3, temperature=1.0, seed=0)) == 3
    texts = [continue_text(model, b"def ", 70, temperature=1.0, seed=seed) for seed in (0, 0, 1)]

    assert texts[0] == texts[1] != texts[2]
    assert texts[0].startswith(b"def ")
    assert len(texts[0]) == 74
