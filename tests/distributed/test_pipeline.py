"""Pipelines with varying shapes, with several activations, with frozen stages, and with stages that fail."""

import functools
from typing import Any
from unittest import mock

import pytest
import torch
from layout_job import LAYOUTS, ClassifyTask, Layer, Layout, Provider, Stage, configure, full_weights, record_losses
from ranks import run_on_ranks
from torch import distributed, nn
from torch.multiprocessing.spawn import ProcessRaisedException

from d9d.core.dist_context import DeviceMeshParameters
from d9d.loop.component import pipeline
from d9d.loop.component.pipeline import LoopStage, PipelineRunner
from d9d.loop.control import (
    BuildForwardInputsContext,
    BuildForwardInputsResult,
    ComputeLossContext,
    ComputeLossResult,
    InitializeModelStageContext,
    InitializeModelStageResult,
    ParallelizeModelStageContext,
)

PIPELINES = ["1f1b", "zbv"]
NUM_STEPS = 6


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


class SequencesTask(ClassifyTask):
    """Classifies each of several copies of the features, whose number differs from step to step."""

    def length(self, step: int) -> int:
        return 1 + step % 3

    def build_forward_inputs(self, ctx: BuildForwardInputsContext) -> BuildForwardInputsResult:
        length = self.length(ctx.stepper.current_step)
        return BuildForwardInputsResult(inputs={"features": ctx.batch["features"][:, None].expand(-1, length, -1)})

    def compute_loss(self, ctx: ComputeLossContext) -> ComputeLossResult:
        classes = ctx.batch["class"][:, None].expand(-1, ctx.outputs.shape[1])
        loss = nn.functional.cross_entropy(ctx.outputs.flatten(0, 1), classes.flatten())
        return ComputeLossResult(loss=loss, loss_weight=(classes >= 0).sum())


class ManyLengthsTask(SequencesTask):
    """Has more lengths than the number of schedules that are kept."""

    def length(self, step: int) -> int:
        return 1 + step % 10


class UnevenTask(SequencesTask):
    """Has a different length for each micro-batch."""

    num_built = 0

    def build_forward_inputs(self, ctx: BuildForwardInputsContext) -> BuildForwardInputsResult:
        self.num_built += 1
        features = ctx.batch["features"][:, None].expand(-1, self.num_built, -1)
        return BuildForwardInputsResult(inputs={"features": features})


def train_with(
    task_kind: type[ClassifyTask], name: str, num_ranks: int, *, provider: type[Provider] = Provider, **settings: Any
) -> tuple[list[float], dict[str, torch.Tensor], list[int], int]:
    """Train, and return losses, weights, the passes of each stage, and the number of schedules that are kept."""
    settings = {"total_steps": NUM_STEPS, **settings}
    trainer = configure(LAYOUTS[name], num_ranks, task_kind(), provider=provider, **settings)
    losses = record_losses(trainer)
    trainer.train()
    runner = trainer._model_runner
    return (
        [loss.item() for loss in losses],
        full_weights(trainer),
        [module.num_passes for module in trainer.modules if isinstance(module, Stage)],
        len(runner._schedules) if isinstance(runner, PipelineRunner) else 0,
    )


@functools.cache
def varying(name: str) -> list[tuple[list[float], dict[str, torch.Tensor], list[int], int]]:
    found: list[tuple[list[float], dict[str, torch.Tensor], list[int], int]]
    found = run_on_ranks(2, train_with, SequencesTask, name, 2)
    return found


@pytest.mark.parametrize("name", PIPELINES)
def test_steps_may_differ_in_shape(name: str) -> None:
    """Losses and weights equal those of one process, for three shapes in turn."""
    losses, weights, _, _ = train_with(SequencesTask, "plain", 1)

    for own_losses, own_weights, _, _ in varying(name):
        torch.testing.assert_close(own_losses, losses, atol=1e-4, rtol=0)
        for each, weight in own_weights.items():
            torch.testing.assert_close(weight, weights[each], atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", PIPELINES)
def test_each_shape_has_one_schedule_and_needs_no_extra_pass(name: str) -> None:
    """Each stage runs once for each of the 16 micro-batches of a step."""
    for _, _, num_passes, num_schedules in varying(name):
        assert set(num_passes) == {NUM_STEPS * 16}
        assert num_schedules == 3


def test_only_the_last_eight_schedules_are_kept() -> None:
    """Of ten shapes."""
    outcomes = run_on_ranks(2, functools.partial(train_with, total_steps=10), ManyLengthsTask, "1f1b", 2)

    assert [num_schedules for _, _, _, num_schedules in outcomes] == [8, 8]


def test_micro_batches_of_one_step_must_have_equal_shapes() -> None:
    """The error names the first that differs, and says what to do."""
    with pytest.raises(
        ProcessRaisedException,
        match=r"differ in shape or dtype: .* micro-batch 1 has .* pad all samples of a step to one size",
    ):
        run_on_ranks(2, train_with, UnevenTask, "1f1b", 2)


class SeveralStage(Stage):
    """Returns a mapping from the last stage, and two tensors from others, one of them without a gradient."""

    def forward(self, features: torch.Tensor, counts: torch.Tensor | None = None) -> Any:
        if counts is None:
            counts = torch.zeros(len(features), dtype=torch.int64, device=features.device)
        outputs = super().forward(features)
        return {"logits": outputs, "counts": counts} if self.position.is_last else (outputs, counts + 1)


class SeveralProvider(Provider):
    stage_kind = SeveralStage


class OutputsTask(ClassifyTask):
    """Checks the counts that the stages have sent."""

    def compute_loss(self, ctx: ComputeLossContext) -> ComputeLossResult:
        assert ctx.outputs["counts"].tolist() == [3] * len(ctx.outputs["counts"])
        context = ComputeLossContext(outputs=ctx.outputs["logits"], batch=ctx.batch, stepper=ctx.stepper)
        return super().compute_loss(context)


def test_stages_send_several_tensors_and_the_last_returns_any_type() -> None:
    """Integer activations have no gradients, and the outputs of the last stage are not sent."""
    losses = train_with(ClassifyTask, "plain", 1)[0]

    for own_losses, *_ in run_on_ranks(
        2, functools.partial(train_with, provider=SeveralProvider), OutputsTask, "zbv", 2
    ):
        torch.testing.assert_close(own_losses, losses, atol=1e-4, rtol=0)


class FrozenProvider(Provider):
    """Freezes the first stage."""

    def initialize_model_stage(self, ctx: InitializeModelStageContext) -> InitializeModelStageResult:
        model = super().initialize_model_stage(ctx).model
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(not name.startswith(("entry", "layers.0", "layers.1", "layers.2", "layers.3")))
        return InitializeModelStageResult(model=model)


def test_a_stage_may_be_frozen() -> None:
    """Its activations still need gradients, because torch sends them."""
    losses, weights, *_ = train_with(ClassifyTask, "plain", 1, provider=FrozenProvider)
    initial = full_weights(configure(LAYOUTS["plain"], 1, ClassifyTask()))

    for own_losses, own_weights, *_ in run_on_ranks(
        2, functools.partial(train_with, provider=FrozenProvider), ClassifyTask, "1f1b", 2
    ):
        torch.testing.assert_close(own_losses, losses, atol=1e-4, rtol=0)
        for each, weight in own_weights.items():
            torch.testing.assert_close(weight, weights[each], atol=1e-4, rtol=0)
    assert torch.equal(weights["entry.weight"], initial["entry.weight"])


class FailingStage(Stage):
    """Raises in the fourth pass of the first stage."""

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        if self.position.is_first and self.num_passes == 3:
            raise ZeroDivisionError("the user's own")
        return super().forward(features)


class FailingProvider(Provider):
    stage_kind = FailingStage


@pytest.mark.parametrize("name", ["1f1b", pytest.param("zbv", marks=pytest.mark.slow)])
def test_the_exception_of_a_stage_is_raised_as_it_is(name: str) -> None:
    """Instead of the error that torch wraps it in."""
    with pytest.raises(ProcessRaisedException) as raised:
        run_on_ranks(2, functools.partial(train_with, provider=FailingProvider), ClassifyTask, name, 2)

    assert str(raised.value).rstrip().endswith("ZeroDivisionError: the user's own\non rank 0 of 2, in step 1 of 6")


class ShiftyStage(Stage):
    """Returns other shapes from the first stage than on the meta device."""

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        outputs = super().forward(features)
        return outputs[:1] if self.position.is_first and not features.is_meta else outputs


class ShiftyProvider(Provider):
    stage_kind = ShiftyStage


def test_output_shapes_that_depend_on_values_are_refused() -> None:
    """Otherwise they would be received into a buffer of another size."""
    with pytest.raises(ProcessRaisedException, match="stage 0 of the pipeline returned tensors of the shapes"):
        run_on_ranks(2, functools.partial(train_with, provider=ShiftyProvider), ClassifyTask, "1f1b", 2)


class ReadingStage(Stage):
    """Reads values, which the meta device does not have."""

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return super().forward(features * features.sum().item())


class ReadingProvider(Provider):
    stage_kind = ReadingStage


def refused(provider: type[Provider]) -> str:
    try:
        train_with(ClassifyTask, "1f1b", 2, provider=provider)
    except RuntimeError as error:
        return str(error)
    return ""


def test_a_stage_that_cannot_run_on_meta_is_refused_on_all_processes() -> None:
    """The message has the error of the stage."""
    for message in run_on_ranks(2, refused, ReadingProvider):
        assert message.startswith(
            "stage 0 of the pipeline failed on the device 'meta', where it runs once to find the shapes"
        )
        assert "RuntimeError: Tensor.item() cannot be called on meta tensors" in message


@pytest.mark.parametrize("dtype", ["bf16", pytest.param("fp32", marks=pytest.mark.slow)])
def test_activations_are_sent_in_the_configured_dtype(dtype: str) -> None:
    """With bf16 the losses are near those of one process, but not equal."""
    losses = train_with(ClassifyTask, "plain", 1, total_steps=3)[0]
    train = functools.partial(train_with, total_steps=3, activation_dtype=dtype)
    (own_losses, *_), _ = run_on_ranks(2, train, ClassifyTask, "1f1b", 2)

    torch.testing.assert_close(own_losses, losses, atol=2e-2, rtol=0)
    assert (own_losses == pytest.approx(losses, abs=1e-5)) == (dtype == "fp32")


def dtypes_sent(name: str, **settings: Any) -> list[torch.dtype]:
    """Train a step, and return the dtypes of the activations that this process sent."""
    sent: list[torch.dtype] = []
    send = LoopStage.get_fwd_send_ops

    def note(stage: LoopStage, fwd_chunk_id: int) -> list[distributed.P2POp]:
        operations = send(stage, fwd_chunk_id)
        sent.extend(operation.tensor.dtype for operation in operations)
        return operations

    with mock.patch.object(LoopStage, "get_fwd_send_ops", note):
        configure(LAYOUTS[name], 2, ClassifyTask(), provider=ReturningLinearProvider, total_steps=1, **settings).train()
    return sent


class LinearStage(Stage):
    """Returns what its last matrix product returns."""

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        features = super().forward(features)
        if self.position.is_last:
            return features
        *_, layer = self.blocks()
        assert isinstance(layer, Layer)
        outputs: torch.Tensor = layer.down(features.repeat(1, 2))
        return outputs


class ReturningLinearProvider(Provider):
    stage_kind = LinearStage


def test_activations_are_sent_in_the_dtype_of_autocast() -> None:
    """Torch's autocast ignores tensors on the meta device, by which the dtypes used to be found."""
    for precision, dtype in (("fp32", torch.float32), ("bf16-autocast", torch.bfloat16)):
        first, last = run_on_ranks(2, functools.partial(dtypes_sent, precision=precision), "1f1b")

        assert first == [dtype] * 16
        assert last == []


def collectives_of_configure(name: str) -> list[tuple[str, list[int]]]:
    """Configure a job, and return the device and the processes of each reduction in the group of the pipeline."""
    found: list[tuple[str, list[int]]] = []
    all_reduce = distributed.all_reduce

    def note(tensor: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        if "group" in kwargs:
            found.append((tensor.device.type, distributed.get_process_group_ranks(kwargs["group"])))
        return all_reduce(tensor, *args, **kwargs)

    with mock.patch.object(distributed, "all_reduce", note):
        configure(LAYOUTS[name], 2, ClassifyTask())
    return found


def test_the_processes_of_a_pipeline_connect_before_the_first_step() -> None:
    """With NCCL, the first operation in a group needs all of its processes, and that of a schedule has only some."""
    assert run_on_ranks(2, collectives_of_configure, "1f1b") == [[("cpu", [0, 1])]] * 2


def parts_sharded(ctx: ParallelizeModelStageContext) -> None:
    """Shard the layers, but not the stage."""
    from torch.distributed.fsdp import fully_shard  # noqa: PLC0415 -- the loop must import it itself

    assert isinstance(ctx.model, Stage)
    mesh = ctx.dist_context.mesh_for("dense")["data_parallel_shard"]
    for layer in ctx.model.blocks():
        fully_shard(layer, mesh=mesh)
    ctx.model.entry.requires_grad_(requires_grad=False)
    ctx.model.exit.requires_grad_(requires_grad=False)


def test_a_stage_must_be_sharded_as_a_whole() -> None:
    """Otherwise torch would not sum the gradients of its parts."""
    mesh = DeviceMeshParameters(pipeline_parallel=2, data_parallel_shard=2)
    layout = Layout({4: mesh}, parts_sharded, "1f1b")

    with pytest.raises(
        ProcessRaisedException, match=r"parts of stage . of the pipeline are sharded, but the stage itself"
    ):
        run_on_ranks(4, configure_only, layout)


def configure_only(layout: Layout) -> None:
    configure(layout, 4, ClassifyTask())


def train_unguarded() -> dict[str, torch.Tensor]:
    """Train without the configuration of FSDP for a schedule that splits the backward pass."""
    pipeline._prepare_sharding = lambda stage, traits: None
    return train_with(ClassifyTask, "zbv+fsdp", 4, total_steps=2)[1]


@pytest.mark.slow
def test_fsdp_keeps_its_weights_if_a_schedule_splits_the_backward_pass() -> None:
    """Otherwise torch silently computes wrong gradients, as the second run shows."""
    expected = train_with(ClassifyTask, "plain", 1, total_steps=2)[1]
    guarded = run_on_ranks(4, functools.partial(train_with, total_steps=2), ClassifyTask, "zbv+fsdp", 4)

    assert distance([weights for _, weights, *_ in guarded], expected) < 1e-4
    assert distance(run_on_ranks(4, train_unguarded), expected) > 1e-3


def distance(found: list[dict[str, torch.Tensor]], expected: dict[str, torch.Tensor]) -> float:
    """Return the largest difference of any weight of any rank."""
    return max((weight - expected[name]).abs().max().item() for each in found for name, weight in each.items())
