"""A step makes the host wait for the device only where a report or a check that is due needs a value.

Tensors on the meta device have no values, so reading one raises or is recorded. Tests that count reads which should
happen run on the CPU.
"""

import sys
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from readings import readings
from torch import nn

from d9d.core.metric import MaxMetric, Metric, SumMetric, WeightedMeanMetric
from d9d.loop.component import LRSchedule, OptimizerBuilder
from d9d.loop.config import ReportingConfig
from d9d.loop.control import (
    BuildForwardInputsContext,
    BuildForwardInputsResult,
    ComputeLossContext,
    ComputeLossResult,
    CreateMetricsContext,
    InitializeModelStageContext,
    InitializeModelStageResult,
    OptimizerProvider,
    ProcessOutputsContext,
)
from d9d.loop.event.catalogue.train import (
    EVENT_TRAIN_OPTIMIZER_STEP_PRE,
    EVENT_TRAIN_STEP_POST,
    EVENT_TRAIN_STEP_PRE,
    EventStepContext,
)

from .toy_job import (
    ADAMW,
    ToyInferenceTask,
    ToyModelProvider,
    ToyTask,
    configure_inference,
    configure_training,
    inference_config,
    training_config,
)

SGD = OptimizerBuilder(torch.optim.SGD, lr=0.1, momentum=0.9)
WSD = LRSchedule.wsd(warmup_steps=2, decay_steps=2)


class WeighingTask(ToyTask):
    """Weights the loss by a tensor, such as a token count."""

    def compute_loss(self, ctx: ComputeLossContext) -> ComputeLossResult:
        weight = (ctx.batch["target"] > 0).sum()
        return ComputeLossResult(loss=super().compute_loss(ctx).loss, loss_weight=weight)


class KeepingTask(ToyInferenceTask):
    """Keeps the outputs on their device."""

    def process_outputs(self, ctx: ProcessOutputsContext) -> None:
        self.kept = ctx.outputs


def read_in_training(
    device: str, task: ToyTask, optimizer_provider: OptimizerProvider = SGD, **settings: Any
) -> list[str]:
    """Train six steps, and return the reads of tensors on the device, each with the function that did it."""
    trainer = configure_training(
        training_config(device=device, total_steps=6, **settings),
        task=task,
        optimizer_provider=optimizer_provider,
        lr_scheduler_provider=WSD,
    )
    with readings(device) as found:
        trainer.train()
    return found


@pytest.mark.parametrize("task", [ToyTask, WeighingTask])
@pytest.mark.parametrize("max_gradient_norm", [None, 1.0])
@pytest.mark.parametrize("optimizer_provider", [SGD, ADAMW], ids=["sgd", "adamw"])
def test_steps_of_training_read_no_value(
    task: type[ToyTask], max_gradient_norm: float | None, optimizer_provider: OptimizerProvider
) -> None:
    """Steps of training with clipping, an optimizer and a scheduler read no value from the device."""
    assert read_in_training("meta", task(), optimizer_provider, max_gradient_norm=max_gradient_norm) == []


class SkippingSGD(torch.optim.SGD):
    """Skips a step as torch's fused optimizers do, which do not run on the meta device."""

    _step_supports_amp_scaling = True

    def step(self, closure: None = None) -> None:  # type: ignore[override]
        found_inf: torch.Tensor = self.found_inf  # type: ignore[attr-defined] # set by the caller
        for parameter in self.param_groups[0]["params"]:
            parameter.data = torch.where(found_inf > 0, parameter.data, parameter.data - 0.1 * parameter.grad)


@pytest.mark.parametrize("max_gradient_norm", [None, 1.0])
def test_steps_that_may_be_skipped_read_no_value(max_gradient_norm: float | None) -> None:
    """With `non_finite_gradients="skip"`, whether the gradients are finite is decided on the device."""
    trainer = configure_training(
        training_config(device="meta", max_gradient_norm=max_gradient_norm, non_finite_gradients="skip"),
        task=WeighingTask(),
        optimizer_provider=lambda ctx: SkippingSGD(ctx.parameters(), lr=0.1),
    )
    with readings("meta") as found:
        trainer.train()

    assert found == []


def test_steps_with_fp32_gradients_read_no_value() -> None:
    """Accumulating the gradients of 16-bit parameters in fp32 reads no value from the device."""

    class HalfPrecisionProvider(ToyModelProvider):
        def initialize_model_stage(self, ctx: InitializeModelStageContext) -> InitializeModelStageResult:
            result = super().initialize_model_stage(ctx)
            result.model.bfloat16()
            return result

    class HalfPrecisionTask(ToyTask):
        def build_forward_inputs(self, ctx: BuildForwardInputsContext) -> BuildForwardInputsResult:
            return BuildForwardInputsResult(inputs={"input": ctx.batch["features"].bfloat16()})

    trainer = configure_training(
        training_config(device="meta", gradient_dtype="fp32"),
        task=HalfPrecisionTask(),
        model_provider=HalfPrecisionProvider(),
        optimizer_provider=SGD,
    )
    with readings("meta") as found:
        trainer.train()

    assert found == []


def test_a_run_that_may_stop_reads_only_the_norm_of_four_steps_ago() -> None:
    """With `stop`, each step reads the gradient norm of four steps before and nothing else."""
    trainer = configure_training(training_config(total_steps=6, non_finite_gradients="stop"), task=WeighingTask())
    num_read: list[int] = []

    with readings("cpu") as found:
        trainer.event_bus.subscribe(
            EVENT_TRAIN_STEP_POST, lambda ctx: num_read.append(found.count("tolist in require_finite"))
        )
        trainer.train()
    allowing = configure_training(training_config(total_steps=6), task=WeighingTask())
    with readings("cpu") as found_without:
        allowing.train()

    assert num_read == [0, 0, 0, 0, 1, 2]
    assert [each for each in found if each != "tolist in require_finite"] == found_without


def test_steps_of_inference_read_no_value() -> None:
    """Inference reads no value from the device if the task does not."""
    run = configure_inference(inference_config(device="meta"), task=KeepingTask())

    with readings("meta") as found:
        run.infer()

    assert found == []


def reports_every(period_steps: int) -> ReportingConfig:
    return ReportingConfig(progress_bar=False, period_steps=period_steps, json_lines=None)


def num_read_by_reports(found: list[str]) -> int:
    """Count how often the values of a report were read; without metrics, they are in one tensor."""
    return found.count("tolist in _read_report")


class CountingTask(WeighingTask):
    """Reports its loss weights, losses and outputs as metrics."""

    def create_metrics(self, ctx: CreateMetricsContext) -> Mapping[str, Metric]:
        device = ctx.dist_context.device
        self.weight, self.error, self.largest = SumMetric(device), WeightedMeanMetric(device), MaxMetric(device)
        return {"weight": self.weight, "error": self.error, "largest": self.largest}

    def compute_loss(self, ctx: ComputeLossContext) -> ComputeLossResult:
        result = super().compute_loss(ctx)
        self.weight.update(result.loss_weight)
        self.error.update(result.loss, result.loss_weight)
        self.largest.update(ctx.outputs)
        return result


def test_metrics_and_the_step_that_reports_them_read_no_value() -> None:
    """The report that is due in the third step is read only at the end of the fourth, which raises on meta tensors."""
    trainer = configure_training(
        training_config(device="meta", total_steps=6, reporting=reports_every(3)),
        task=CountingTask(),
        optimizer_provider=SGD,
        lr_scheduler_provider=LRSchedule.linear(warmup_steps=2),
    )
    read_by_step: list[list[str]] = []

    with readings("meta") as found:
        trainer.event_bus.subscribe(EVENT_TRAIN_STEP_POST, lambda ctx: read_by_step.append(list(found)))
        with pytest.raises(NotImplementedError, match="Cannot copy out of meta tensor"):
            trainer.train()

    # The loop reads the report at the end of the fourth step, after `step.post`.
    assert read_by_step == [[], [], [], []]
    assert found == ["cpu in <listcomp>" if sys.version_info < (3, 12) else "cpu in read"]


def test_a_report_is_read_once_at_the_end_of_the_step_after_it_was_due() -> None:
    """The report of the fourth step is read after the fifth; that of the last step is read at the end of the run."""
    trainer = configure_training(
        training_config(total_steps=6, reporting=reports_every(4)),
        task=WeighingTask(),
        optimizer_provider=SGD,
        lr_scheduler_provider=WSD,
    )
    num_read: list[int] = []

    with readings("cpu") as found:
        trainer.event_bus.subscribe(EVENT_TRAIN_STEP_POST, lambda ctx: num_read.append(num_read_by_reports(found)))
        trainer.train()

    assert num_read == [0, 0, 0, 0, 0, 1]
    assert num_read_by_reports(found) == 2


def read_item(loss: torch.Tensor) -> object:
    return loss.item()


def read_truth(loss: torch.Tensor) -> object:
    return bool(loss > 0)


def read_branch(loss: torch.Tensor) -> object:
    return 1 if loss > 0 else 2


def read_float(loss: torch.Tensor) -> object:
    return float(loss)


def read_list(loss: torch.Tensor) -> object:
    return loss.tolist()


def read_copy(loss: torch.Tensor) -> object:
    return loss.detach().cpu()


def read_array(loss: torch.Tensor) -> object:
    return loss.detach().numpy()


def read_text(loss: torch.Tensor) -> object:
    return f"{loss}"


def read_positions(loss: torch.Tensor) -> object:
    return loss.detach().reshape(1).nonzero()


def read_finiteness(loss: torch.Tensor) -> object:
    return torch.isnan(loss).any().item()


READS = [
    read_item,
    read_truth,
    read_branch,
    read_float,
    read_list,
    read_copy,
    read_array,
    read_text,
    read_positions,
    read_finiteness,
]


@pytest.mark.parametrize("read", READS, ids=lambda read: read.__name__)
def test_a_task_that_reads_a_value_is_caught(read: Callable[[torch.Tensor], object]) -> None:
    """These tests notice each way in which a task can read a value in a step."""

    class WaitingTask(ToyTask):
        def compute_loss(self, ctx: ComputeLossContext) -> ComputeLossResult:
            result = super().compute_loss(ctx)
            read(result.loss)
            return result

    trainer = configure_training(training_config(device="meta"), task=WaitingTask(), optimizer_provider=SGD)
    with readings("meta") as found:
        try:
            trainer.train()
        except (RuntimeError, TypeError):  # there are no values to read
            found.append("failed")

    assert found != []
    assert found[0].endswith(f"in {read.__name__}")


def test_a_handler_that_reads_a_value_is_caught() -> None:
    """These tests notice a handler that reads a value in a step."""
    trainer = configure_training(training_config(device="meta"), optimizer_provider=SGD)

    def wait(ctx: EventStepContext) -> None:
        nn.utils.get_total_norm([w.grad for w in trainer.modules[0].parameters() if w.grad is not None]).item()

    trainer.event_bus.subscribe(EVENT_TRAIN_OPTIMIZER_STEP_PRE, wait)

    with readings("meta") as found, pytest.raises(RuntimeError):
        trainer.train()
    assert found[0] == "item in wait"


def train_without_waits(device: str, policy: str, watch: Callable[[bool], None]) -> None:
    """Train with everything that works on the device, and watch steps after the first two.

    Args:
        device: The device.
        policy: What happens to gradients that are not finite.
        watch: Called before each step with whether the step must not wait.
    """
    config = training_config(
        device=device,
        total_steps=8,
        reporting=reports_every(2),
        non_finite_gradients=policy,
        precision="bf16-autocast",
    )
    trainer = configure_training(
        config, task=CountingTask(), optimizer_provider=OptimizerBuilder(torch.optim.AdamW, fused=True)
    )
    # The first steps load kernels and create the optimizer state, which may synchronize. The last one reads its report.
    trainer.event_bus.subscribe(
        EVENT_TRAIN_STEP_PRE, lambda ctx: watch(2 <= ctx.stepper.current_step < ctx.stepper.total_steps - 1)
    )
    trainer.train()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no CUDA device")
@pytest.mark.parametrize("policy", ["allow", "skip", "stop"])
@pytest.mark.filterwarnings("ignore:Synchronization debug mode is a prototype")
def test_steps_on_a_gpu_do_not_wait(policy: str) -> None:
    """On CUDA, torch's sync debug mode raises no error in steps after the first two."""
    modes: list[int] = []

    def watch(must_not_wait: bool) -> None:  # noqa: FBT001 -- called by position
        torch.cuda.set_sync_debug_mode("error" if must_not_wait else "default")
        modes.append(torch.cuda.get_sync_debug_mode())

    try:
        train_without_waits("cuda", policy, watch)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert modes == [0, 0, 2, 2, 2, 2, 2, 0]


@pytest.mark.parametrize("policy", ["allow", "skip", "stop"])
def test_the_steps_that_a_gpu_is_watched_in_are_those_without_reads(policy: str) -> None:
    """On the CPU the same steps read only what is copied to the host on purpose: reports and norms of earlier steps."""
    watched: list[bool] = []
    with readings("cpu") as found:
        numbers = [0]

        def watch(must_not_wait: bool) -> None:  # noqa: FBT001 -- called by position
            watched.append(must_not_wait)
            numbers.append(len(found))

        train_without_waits("cpu", policy, watch)
    on_purpose = {"cpu in <listcomp>" if sys.version_info < (3, 12) else "cpu in read"}
    # On a device, these are of the copies on the host, as is the order of samples.
    on_purpose |= {"item in compute", "aten::_local_scalar_dense in compute", "tolist in compute"}
    on_purpose |= {"tolist in require_finite", "tolist in _read_report", "tolist in _read"}
    steady = found[numbers[3] : numbers[-1]]

    assert watched == [False, False, *[True] * 5, False]
    assert {*steady} <= on_purpose
