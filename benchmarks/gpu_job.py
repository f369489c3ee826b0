"""A Transformer of about 125 million parameters, trained in bf16: by hand, and in the loop of this project."""

import copy
import dataclasses
import time

import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

from d9d.core.stepper import Stepper
from d9d.loop import control
from d9d.loop.component import OptimizerBuilder
from d9d.loop.component.data.batch_sampler import ShufflingBatchSampler
from d9d.loop.config import DataLoadingConfig, ReportingConfig, TrainingConfig
from d9d.loop.event import subscribe, subscribe_annotated
from d9d.loop.event.catalogue.train import EVENT_TRAIN_STEP_PRE, EventStepContext
from d9d.loop.run import TrainingConfigurator

NUM_TOKENS, WIDTH, NUM_LAYERS, NUM_HEADS, LENGTH = 32_768, 768, 12, 12, 1024
BATCH_SIZE, LEARNING_RATE, NUM_SAMPLES = 16, 3e-4, 4096
NUM_WARMUP_STEPS = 20


class Texts(Dataset[torch.Tensor]):
    """Random tokens."""

    def __len__(self) -> int:
        return NUM_SAMPLES

    def __getitem__(self, index: int) -> torch.Tensor:
        return torch.randint(NUM_TOKENS, (LENGTH + 1,), generator=torch.Generator().manual_seed(index))


class Block(nn.Module):
    """Attention and a network of two layers, each over normalised inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.norms = nn.ModuleList([nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)])
        self.attention_inputs, self.attention_outputs = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.network = nn.Sequential(nn.Linear(WIDTH, 4 * WIDTH), nn.GELU(), nn.Linear(4 * WIDTH, WIDTH))

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """Return hidden states `[sample, position, width]`."""
        split = self.attention_inputs(self.norms[0](hidden)).unflatten(-1, (3, NUM_HEADS, -1)).permute(2, 0, 3, 1, 4)
        attended = nn.functional.scaled_dot_product_attention(split[0], split[1], split[2], is_causal=True)
        hidden = hidden + self.attention_outputs(attended.transpose(1, 2).flatten(2))
        outputs: torch.Tensor = hidden + self.network(self.norms[1](hidden))
        return outputs


class Transformer(nn.Module):
    """Predicts each next token; returns the mean loss."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens, self.positions = nn.Embedding(NUM_TOKENS, WIDTH), nn.Embedding(LENGTH, WIDTH)
        self.blocks = nn.Sequential(*(Block() for _ in range(NUM_LAYERS)))
        self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, NUM_TOKENS, bias=False)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Return the loss over tokens `[sample, position]`."""
        inputs, targets = tokens[:, :-1], tokens[:, 1:]
        hidden = self.tokens(inputs) + self.positions(torch.arange(LENGTH, device=tokens.device))
        scores = self.head(self.norm(self.blocks(hidden)))
        return nn.functional.cross_entropy(scores.float().flatten(0, 1), targets.flatten())


@dataclasses.dataclass
class Job:
    """One training run.

    Attributes:
        device: Where.
        num_steps: How many steps are timed, after those that warm up.
        is_compiled: Whether the model goes through `torch.compile`.
        seconds: What the timed steps took, device and all.
    """

    device: torch.device
    num_steps: int
    is_compiled: bool
    seconds: float = 0.0

    @property
    def total_steps(self) -> int:
        """How many steps there are with those that warm up."""
        return NUM_WARMUP_STEPS + self.num_steps

    @property
    def tokens_per_second(self) -> float:
        """How fast it was."""
        return self.num_steps * BATCH_SIZE * LENGTH / self.seconds

    def model(self) -> nn.Module:
        """Return a new model, with the same weights each time."""
        torch.manual_seed(0)
        model = copy.deepcopy(Transformer()).to(self.device)
        if self.is_compiled:
            model.compile()
        return model

    def start(self) -> None:
        """Begin to time, once the device has done what it was given."""
        torch.accelerator.synchronize(self.device)
        self._started = time.perf_counter()

    def stop(self) -> None:
        """End timing, once the device has done what it was given."""
        torch.accelerator.synchronize(self.device)
        self.seconds = time.perf_counter() - self._started


def train_by_hand(job: Job) -> nn.Module:
    """Train as one writes it down without any library, with batches from pinned memory."""
    model, data = job.model(), Texts()
    sampler = ShufflingBatchSampler(
        num_samples=NUM_SAMPLES,
        global_batch_size=BATCH_SIZE,
        micro_batch_size=BATCH_SIZE,
        seed=0,
        stepper=Stepper(job.total_steps),
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, fused=True)
    loader = DataLoader(data, batch_sampler=[list(batch) for batch in sampler], num_workers=4, pin_memory=True)
    for number, tokens in enumerate(loader):
        if number == NUM_WARMUP_STEPS:
            job.start()
        with torch.autocast(job.device.type, dtype=torch.bfloat16):
            loss = model(tokens.to(job.device, non_blocking=True))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    job.stop()
    return model


class _Task(control.TrainTask):
    def __init__(self, job: Job) -> None:
        self._job = job

    def register_events(self, ctx: control.RegisterTaskEventsContext) -> None:
        subscribe_annotated(ctx.event_bus, self)

    def build_forward_inputs(self, ctx: control.BuildForwardInputsContext) -> control.BuildForwardInputsResult:
        return control.BuildForwardInputsResult(inputs={"tokens": ctx.batch})

    def compute_loss(self, ctx: control.ComputeLossContext) -> control.ComputeLossResult:
        return control.ComputeLossResult(loss=ctx.outputs)

    @subscribe(EVENT_TRAIN_STEP_PRE)
    def _start_clock(self, ctx: EventStepContext) -> None:
        if ctx.stepper.current_step == NUM_WARMUP_STEPS:
            self._job.start()


class _Model(control.ModelProvider):
    def __init__(self, model: nn.Module) -> None:
        self._model = model

    def initialize_model_stage(self, ctx: control.InitializeModelStageContext) -> control.InitializeModelStageResult:
        return control.InitializeModelStageResult(model=self._model)


def train_with(job: Job) -> nn.Module:
    """Train in the loop of this project, with everything that it does by default but checkpoints and clipping."""
    model = job.model()
    TrainingConfigurator(
        config=TrainingConfig(
            total_steps=job.total_steps,
            global_batch_size=BATCH_SIZE,
            device=str(job.device),
            precision="bf16-autocast",
            max_gradient_norm=None,
            data_loading=DataLoadingConfig(num_workers=4),
            reporting=ReportingConfig(progress_bar=False, json_lines=None),
        ),
        task=_Task(job),
        model_provider=_Model(model),
        dataset_provider=lambda ctx: control.InitializeDatasetResult(dataset=Texts()),
        optimizer_provider=OptimizerBuilder(torch.optim.AdamW, lr=LEARNING_RATE, fused=True),
    ).configure().train()
    job.stop()
    return model
