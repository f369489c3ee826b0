"""The complete gradients of a step are an event, whose handlers may skip the update."""

import itertools
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import pytest
import torch
from readings import readings
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from d9d.loop.component import OptimizerBuilder
from d9d.loop.component.gradients import NonFiniteGradientsError
from d9d.loop.config import ConfigurationError, ReportingConfig
from d9d.loop.control import (
    BuildForwardInputsContext,
    BuildForwardInputsResult,
    ComputeLossContext,
    ComputeLossResult,
    InitializeModelStageContext,
    InitializeModelStageResult,
)
from d9d.loop.event import EventBus
from d9d.loop.event.catalogue.train import (
    EVENT_TRAIN_FAILED,
    EVENT_TRAIN_FORWARD_BACKWARD_POST,
    EVENT_TRAIN_GRADIENTS_READY,
    EVENT_TRAIN_OPTIMIZER_STEP_PRE,
    EVENT_TRAIN_STEP_PRE,
    EventGradientsReadyContext,
    EventStepContext,
)
from d9d.loop.run import Trainer, TrainingConfigurator

from .toy_job import (
    StoppedError,
    ToyDataset,
    ToyModelProvider,
    ToyTask,
    configure_training,
    same_tensors,
    states_after_steps,
    training_config,
    weights_of,
)

POLICIES = ["allow", "skip", "stop"]
FUSED_SGD = OptimizerBuilder(torch.optim.SGD, lr=0.1, momentum=0.9, fused=True)
PLAIN_SGD = OptimizerBuilder(torch.optim.SGD, lr=0.1, fused=False)


class WeighingTask(ToyTask):
    """Weighs each micro-batch by a number that is no power of two.

    Args:
        listen: Subscribes the handlers of a test.
        failing: The steps whose loss is NaN.
    """

    def __init__(self, listen: Callable[[EventBus], object] = lambda bus: None, failing: Sequence[int] = ()) -> None:
        super().__init__(listen)
        self._failing = failing

    def compute_loss(self, ctx: ComputeLossContext) -> ComputeLossResult:
        loss = super().compute_loss(ctx).loss
        if ctx.stepper.current_step in self._failing:
            loss = loss * float("nan")
        return ComputeLossResult(loss=loss, loss_weight=torch.full((), 1.1, device=loss.device))


def hearing(handler: Callable[[EventGradientsReadyContext], None], **settings: Any) -> Trainer:
    """Configure a run whose task subscribes a handler."""

    def listen(bus: EventBus) -> None:
        bus.subscribe(EVENT_TRAIN_GRADIENTS_READY, handler)

    optimizer = settings.pop("optimizer", OptimizerBuilder(torch.optim.AdamW, lr=0.01))
    failing = settings.pop("failing", ())
    return configure_training(
        training_config(**settings), task=WeighingTask(listen, failing), optimizer_provider=optimizer
    )


def gradients_of(modules: Sequence[nn.Module]) -> list[torch.Tensor]:
    return [each.grad.clone() for module in modules for each in module.parameters() if each.grad is not None]


def ignore(ctx: EventGradientsReadyContext) -> None:
    """Do nothing."""


def test_the_norm_is_that_of_the_gradients_that_the_handler_sees() -> None:
    """They are scaled and not clipped: the norm exceeds the bound, and the optimizer gets gradients within it."""
    seen: list[tuple[float, float]] = []
    clipped: list[float] = []

    def note(ctx: EventGradientsReadyContext) -> None:
        seen.append((ctx.norm.item(), nn.utils.get_total_norm(gradients_of(ctx.modules)).item()))

    trainer = hearing(note, max_gradient_norm=0.01)
    trainer.event_bus.subscribe(
        EVENT_TRAIN_OPTIMIZER_STEP_PRE,
        lambda ctx: clipped.append(nn.utils.get_total_norm(gradients_of(trainer.modules)).item()),
    )
    trainer.train()

    assert len(seen) == 3
    assert all(norm == of_gradients > 0.1 for norm, of_gradients in seen)
    assert clipped == pytest.approx([0.01] * 3, rel=1e-3)


def test_the_gradients_are_those_of_the_weighted_mean() -> None:
    """They are divided by the weights of the step: four samples in two micro-batches, each of the weight 1.1."""
    sums: list[list[torch.Tensor]] = []
    means: list[list[torch.Tensor]] = []
    trainer = hearing(lambda ctx: means.append(gradients_of(ctx.modules)))
    trainer.event_bus.subscribe(
        EVENT_TRAIN_FORWARD_BACKWARD_POST, lambda ctx: sums.append(gradients_of(trainer.modules))
    )

    trainer.train()

    for total, mean in zip(sums, means, strict=True):
        torch.testing.assert_close([each / 2.2 for each in total], mean)


def test_the_event_lies_between_the_backward_passes_and_the_optimizer() -> None:
    """Once in each step, after FORWARD_BACKWARD_POST and before OPTIMIZER_STEP_PRE."""
    order: list[str] = []
    trainer = hearing(lambda ctx: order.append("ready"))
    trainer.event_bus.subscribe(EVENT_TRAIN_FORWARD_BACKWARD_POST, lambda ctx: order.append("post"))
    trainer.event_bus.subscribe(EVENT_TRAIN_OPTIMIZER_STEP_PRE, lambda ctx: order.append("pre"))

    trainer.train()

    assert order == ["post", "ready", "pre"] * 3


def test_the_context_has_the_parts_of_the_run() -> None:
    """The modules, the stepper and the control are those of the trainer."""
    seen: list[EventGradientsReadyContext] = []
    trainer = hearing(seen.append)

    trainer.train()

    assert all(ctx.modules == list(trainer.modules) and ctx.stepper is trainer.stepper for ctx in seen)


def test_a_handler_gets_the_norm_in_every_step_even_if_nothing_else_needs_it() -> None:
    """Without clipping, policy and reports, a handler that is subscribed before the end of `configure` is enough."""
    norms: list[float] = []
    trainer = hearing(lambda ctx: norms.append(ctx.norm.item()), max_gradient_norm=None)

    trainer.train()

    assert len(norms) == 3
    assert min(norms) > 0


def test_a_late_handler_is_refused_if_the_norm_is_not_measured_in_every_step() -> None:
    """The error says why, and what to do."""
    trainer = configure_training(training_config(max_gradient_norm=None))

    with pytest.raises(ConfigurationError) as caught:
        trainer.event_bus.subscribe(EVENT_TRAIN_GRADIENTS_READY, ignore)

    assert str(caught.value) == (
        f"handler {__name__}.ignore of event 'train.gradients.ready' is subscribed too late: configure() has found no "
        "handler of this event on any rank. Its field `norm` is not measured in every step, and a rank cannot begin to "
        "measure it alone: pass its object in subscribers=, or subscribe it in register_events, or set "
        "max_gradient_norm, or non_finite_gradients to 'skip' or 'stop'"
    )
    trainer.train()


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"max_gradient_norm": None, "non_finite_gradients": "skip"},
        {"max_gradient_norm": None, "reporting": ReportingConfig(progress_bar=False, period_steps=1, json_lines=None)},
    ],
    ids=["clipping", "policy", "reports of every step"],
)
def test_a_late_handler_is_called_if_the_norm_is_measured_anyway(settings: dict[str, Any]) -> None:
    """Also one that is subscribed between two steps."""
    trainer = configure_training(training_config(**settings))
    norms: list[float] = []

    for ctx in trainer.steps():
        if ctx.stepper.current_step == 1:
            trainer.event_bus.subscribe(EVENT_TRAIN_GRADIENTS_READY, lambda ctx: norms.append(ctx.norm.item()))

    assert len(norms) == 2
    assert min(norms) > 0


def test_a_second_late_handler_is_accepted() -> None:
    """If a handler was there at `configure`, all later ones are welcome."""
    trainer = hearing(ignore, max_gradient_norm=None)
    norms: list[float] = []

    trainer.event_bus.subscribe(EVENT_TRAIN_GRADIENTS_READY, lambda ctx: norms.append(ctx.norm.item()))
    trainer.train()

    assert len(norms) == 3


def test_gradients_that_nobody_hears_build_no_context(monkeypatch: pytest.MonkeyPatch) -> None:
    """The context is built only for a handler."""
    built: list[int] = []

    def build(**fields: Any) -> EventGradientsReadyContext:
        built.append(fields["stepper"].current_step)
        return EventGradientsReadyContext(**fields)

    monkeypatch.setattr("d9d.loop.run.training.EventGradientsReadyContext", build)
    configure_training(training_config()).train()
    assert built == []

    hearing(ignore).train()
    assert built == [0, 1, 2]


def test_a_failure_in_a_handler_names_the_event() -> None:
    """`last_event` of the failure is this event."""
    last: list[str | None] = []

    def fail(ctx: EventGradientsReadyContext) -> None:
        raise StoppedError

    trainer = hearing(fail)
    trainer.event_bus.subscribe(EVENT_TRAIN_FAILED, lambda ctx: last.append(ctx.last_event))

    with pytest.raises(StoppedError):
        trainer.train()
    assert last == ["train.gradients.ready"]


def test_a_handler_that_changes_gradients_does_not_change_the_factor_of_clipping() -> None:
    """Clipping uses the norm of the event: gradients that a handler doubles end with twice the bound."""
    clipped: list[float] = []

    def double(ctx: EventGradientsReadyContext) -> None:
        for module in ctx.modules:
            for parameter in module.parameters():
                assert parameter.grad is not None
                parameter.grad *= 2

    trainer = hearing(double, max_gradient_norm=0.01)
    trainer.event_bus.subscribe(
        EVENT_TRAIN_OPTIMIZER_STEP_PRE,
        lambda ctx: clipped.append(nn.utils.get_total_norm(gradients_of(trainer.modules)).item()),
    )

    trainer.train()

    assert clipped == pytest.approx([0.02] * 3, rel=1e-3)


def skipping_in(*steps: int) -> Callable[[EventGradientsReadyContext], None]:
    """Make a handler that skips some steps; it calls `skip_update` in all of them."""

    def handler(ctx: EventGradientsReadyContext) -> None:
        ctx.skip_update(torch.full((), ctx.stepper.current_step in steps, device=ctx.norm.device))

    return handler


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("optimizer", [OptimizerBuilder(torch.optim.AdamW, lr=0.01), FUSED_SGD], ids=["AdamW", "SGD"])
def test_a_skipped_update_changes_neither_weights_nor_optimizer(policy: str, optimizer: OptimizerBuilder) -> None:
    """Under every policy, also in the first step. The steps do not count as non-finite, and the run continues."""
    trainer = hearing(skipping_in(0, 2, 3), total_steps=6, non_finite_gradients=policy, optimizer=optimizer)
    initial = weights_of(trainer.modules[0])

    states = states_after_steps(trainer)

    assert same_tensors({name: states[0][name] for name in initial}, initial)
    same = [same_tensors(before, after) for before, after in itertools.pairwise(states)]
    assert same == [False, True, True, False, False]
    counted = trainer.num_skipped_steps
    assert (counted is None) if policy == "allow" else (counted is not None and counted.item() == 0)


@pytest.mark.parametrize("policy", POLICIES)
def test_skipping_nothing_changes_nothing(policy: str) -> None:
    """A condition that is never true leaves weights and optimizer state as they are without the call, bit for bit."""
    without = states_after_steps(hearing(ignore, non_finite_gradients=policy))
    with_call = states_after_steps(hearing(skipping_in(), non_finite_gradients=policy))

    assert all(map(same_tensors, without, with_call))


def test_a_condition_concerns_one_step_only() -> None:
    """The step after one that was skipped is taken, although its handler does not call `skip_update`."""

    def skip_first(ctx: EventGradientsReadyContext) -> None:
        if ctx.stepper.current_step == 0:
            ctx.skip_update(ctx.norm > 0)

    states = states_after_steps(hearing(skip_first))

    assert not same_tensors(states[0], states[1])


@pytest.mark.parametrize("policy", ["skip", "stop"])
def test_a_skipped_step_does_not_count_as_non_finite_even_if_it_is(policy: str) -> None:
    """A handler that deals with a NaN itself leaves the policy nothing to do."""
    trainer = hearing(
        lambda ctx: ctx.skip_update(~torch.isfinite(ctx.norm)), total_steps=8, non_finite_gradients=policy, failing=[1]
    )

    states = states_after_steps(trainer)

    assert len(states) == 8
    assert same_tensors(states[0], states[1])
    assert trainer.num_skipped_steps is not None
    assert trainer.num_skipped_steps.item() == 0


def test_the_policy_still_stops_at_a_step_that_no_handler_skips() -> None:
    """The error names the step whose norm is not finite, although other steps were skipped before and after it."""
    trainer = hearing(skipping_in(1, 4), total_steps=20, non_finite_gradients="stop", failing=[3])

    with pytest.raises(NonFiniteGradientsError, match="the gradient norm is nan in step 4"):
        trainer.train()


def test_a_step_is_skipped_if_any_condition_is_true() -> None:
    """Two handlers may ask in the same step."""

    def ask_twice(ctx: EventGradientsReadyContext) -> None:
        ctx.skip_update(ctx.norm > 0)
        ctx.skip_update(ctx.norm < 0)

    trainer = hearing(ask_twice)
    initial = weights_of(trainer.modules[0])
    trainer.train()

    assert same_tensors(weights_of(trainer.modules[0]), initial)


class SkippingSGD(torch.optim.SGD):
    """Skips a step as torch's fused optimizers do, which do not run on the meta device."""

    _step_supports_amp_scaling = True

    def step(self, closure: None = None) -> None:  # type: ignore[override]
        found_inf: torch.Tensor = self.found_inf  # type: ignore[attr-defined] # set by the caller
        for parameter in self.param_groups[0]["params"]:
            parameter.data = torch.where(found_inf > 0, parameter.data, parameter.data - 0.1 * parameter.grad)


@pytest.mark.parametrize("policy", ["allow", "skip"])
def test_skipping_reads_no_value(policy: str) -> None:
    """Whether a step is skipped is decided on the device."""
    trainer = hearing(
        lambda ctx: ctx.skip_update(ctx.norm > 100),
        device="meta",
        non_finite_gradients=policy,
        optimizer=lambda ctx: SkippingSGD(ctx.parameters(), lr=0.1),
    )

    with readings("meta") as found:
        trainer.train()

    assert found == []


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no CUDA device")
@pytest.mark.filterwarnings("ignore:Synchronization debug mode is a prototype")
def test_skipping_does_not_wait_for_a_gpu() -> None:
    """On CUDA, torch's sync debug mode raises no error in steps after the first two."""
    trainer = hearing(lambda ctx: ctx.skip_update(ctx.norm > 100), device="cuda", total_steps=6)
    modes: list[int] = []

    def watch(ctx: EventStepContext) -> None:
        # The first steps load kernels and create the optimizer state, which may synchronize.
        is_steady = ctx.stepper.current_step >= 2 and not ctx.stepper.is_last
        torch.cuda.set_sync_debug_mode("error" if is_steady else "default")
        modes.append(torch.cuda.get_sync_debug_mode())

    trainer.event_bus.subscribe(EVENT_TRAIN_STEP_PRE, watch)
    try:
        trainer.train()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert modes == [0, 0, 2, 2, 2, 0]


def test_an_optimizer_that_cannot_skip_on_the_device_is_refused() -> None:
    """In the words with which `non_finite_gradients='skip'` refuses it."""
    trainer = hearing(skipping_in(0), optimizer=PLAIN_SGD)

    with pytest.raises(ConfigurationError) as caught:
        trainer.train()
    assert str(caught.value) == (
        "skip_update needs an optimizer that can skip a step on the device, as AdamW, Adam, SGD and Adagrad of "
        "torch.optim can with fused=True. This SGD cannot: if it is one of them, create it with fused=True; otherwise "
        "use torch.optim.AdamW(…, fused=True), or do not call skip_update"
    )


def test_listening_alone_needs_no_special_optimizer() -> None:
    """Only the call of `skip_update` does."""
    norms: list[float] = []

    hearing(lambda ctx: norms.append(ctx.norm.item()), optimizer=PLAIN_SGD).train()

    assert len(norms) == 3


@pytest.mark.parametrize(
    ("condition", "error", "message"),
    [
        (True, TypeError, "skip_update got a bool: pass a boolean scalar on the device, such as `ctx.norm > 100`"),
        (torch.ones(()), TypeError, r"skip_update got a torch.float32 of shape \[\]: pass a boolean scalar"),
        (torch.ones(2) > 0, TypeError, r"skip_update got a torch.bool of shape \[2\]: pass a boolean scalar"),
        (torch.ones((), device="meta") > 0, ValueError, "a condition on meta, but the gradients are on cpu: pass"),
    ],
    ids=["host", "number", "several", "elsewhere"],
)
def test_a_condition_that_the_device_cannot_read_is_refused(
    condition: Any, error: type[Exception], message: str
) -> None:
    """The error says what was found, and what to pass."""
    with pytest.raises(error, match=message):
        hearing(lambda ctx: ctx.skip_update(condition)).train()


def test_skip_update_after_its_event_is_refused() -> None:
    """A handler that keeps the context cannot skip a step whose gradients are clipped already."""
    kept: list[EventGradientsReadyContext] = []
    trainer = hearing(kept.append)
    trainer.event_bus.subscribe(EVENT_TRAIN_OPTIMIZER_STEP_PRE, lambda ctx: kept[-1].skip_update(kept[-1].norm > 0))

    with pytest.raises(RuntimeError, match=r"call it within a handler of train\.gradients\.ready"):
        trainer.train()


Scaling: TypeAlias = tuple[str, torch.dtype, torch.dtype | None]


class Scalings(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Records each operation that scales gradients: its name, and the dtypes of the tensors and of the factor."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.found: list[Scaling] = []

    def __torch_dispatch__(self, func: Any, types: object, args: Any = (), kwargs: Any = None) -> Any:
        name = func.name().split("::")[1].split(".")[0]
        if name in {"_foreach_mul_", "_foreach_div_"}:
            self.found.append((name, args[0][0].dtype, getattr(args[1], "dtype", None)))
        return func(*args, **(kwargs or {}))


class BrainFloatProvider(ToyModelProvider):
    """Provides the toy model in bfloat16."""

    def initialize_model_stage(self, ctx: InitializeModelStageContext) -> InitializeModelStageResult:
        return InitializeModelStageResult(model=super().initialize_model_stage(ctx).model.bfloat16())


class BrainFloatTask(WeighingTask):
    """Feeds bfloat16 features and targets."""

    def compute_loss(self, ctx: ComputeLossContext) -> ComputeLossResult:
        return super().compute_loss(
            ComputeLossContext(outputs=ctx.outputs.float(), batch=ctx.batch, stepper=ctx.stepper)
        )

    def build_forward_inputs(self, ctx: BuildForwardInputsContext) -> BuildForwardInputsResult:
        return BuildForwardInputsResult(inputs={"input": ctx.batch["features"].bfloat16()})


def scalings_of(listen: Callable[[EventBus], object], *, is_half: bool) -> list[Scaling]:
    """Train one step, and return the operations that scaled its gradients."""
    trainer = configure_training(
        training_config(total_steps=1),
        task=(BrainFloatTask if is_half else WeighingTask)(listen),
        model_provider=BrainFloatProvider() if is_half else ToyModelProvider(),
        optimizer_provider=FUSED_SGD,
    )
    scalings = Scalings()
    with scalings:
        trainer.train()
    return scalings.found


def subscribe_ignore(bus: EventBus) -> None:
    bus.subscribe(EVENT_TRAIN_GRADIENTS_READY, ignore)


def test_gradients_that_nobody_hears_are_scaled_and_clipped_at_once() -> None:
    """One operation for all tensors of a dtype. With a factor of another dtype, torch would run one kernel for each."""
    fp32, bf16 = torch.float32, torch.bfloat16

    assert scalings_of(lambda bus: None, is_half=False) == [("_foreach_mul_", fp32, fp32)]
    assert scalings_of(lambda bus: None, is_half=True) == [("_foreach_mul_", bf16, bf16)]
    assert scalings_of(subscribe_ignore, is_half=False) == [
        ("_foreach_div_", fp32, fp32),
        ("_foreach_mul_", fp32, fp32),
    ]
    assert scalings_of(subscribe_ignore, is_half=True) == [("_foreach_mul_", bf16, bf16)] * 2


def trained(listen: Callable[[EventBus], object], task: type[ToyTask]) -> dict[str, torch.Tensor]:
    """Train ten steps that are clipped, and return the weights."""
    trainer = configure_training(training_config(max_gradient_norm=0.1, total_steps=10), task=task(listen))
    trainer.train()
    return weights_of(trainer.modules[0])


def test_a_handler_does_not_change_a_run_with_equal_weights() -> None:
    """Where the weights of a step add up to a power of two, both ways of scaling give the same bits."""
    assert same_tensors(trained(lambda bus: None, ToyTask), trained(subscribe_ignore, ToyTask))


def test_a_handler_changes_other_runs_by_rounding_alone() -> None:
    """Where they add up to another number, gradients are rounded once more."""
    torch.testing.assert_close(trained(lambda bus: None, WeighingTask), trained(subscribe_ignore, WeighingTask))


@pytest.mark.parametrize("period_steps", [None, 2])
def test_reports_have_the_norm_in_the_steps_that_they_describe(period_steps: int | None, tmp_path: Path) -> None:
    """Without clipping, the norm is measured in those steps alone."""
    lines = tmp_path / "lines.jsonl"
    trainer = configure_training(
        training_config(
            total_steps=4,
            max_gradient_norm=None,
            reporting=ReportingConfig(progress_bar=False, period_steps=period_steps, json_lines=lines),
        )
    )
    measured: list[int] = []
    measure = trainer._gradients._norm.measure

    def measure_and_note() -> torch.Tensor:
        measured.append(trainer.stepper.current_step)
        return measure()

    trainer._gradients._norm.measure = measure_and_note  # type: ignore[method-assign]
    trainer.train()

    assert measured == ([] if period_steps is None else [1, 3])
    if period_steps is not None:
        reports = [json.loads(line) for line in lines.read_text().splitlines()]
        assert all(report["gradient_norm"] > 0 for report in reports if "loss" in report)


class EmbeddingTask(ToyTask):
    """Learns to map five indices to zero."""

    def build_forward_inputs(self, ctx: BuildForwardInputsContext) -> BuildForwardInputsResult:
        return BuildForwardInputsResult(inputs={"input": ctx.batch["index"] % 5})

    def compute_loss(self, ctx: ComputeLossContext) -> ComputeLossResult:
        return ComputeLossResult(loss=ctx.outputs.square().mean())


def test_sparse_gradients_are_measured_and_clipped() -> None:
    """Each row counts once, with the sum of what was accumulated for it."""
    sparse, dense = nn.Embedding(5, 3, sparse=True), nn.Embedding(5, 3)
    dense.load_state_dict(sparse.state_dict())
    norms: list[list[float]] = [[], []]
    for of_run, module in zip(norms, (sparse, dense), strict=True):
        trainer = TrainingConfigurator(
            config=training_config(max_gradient_norm=0.01),
            task=EmbeddingTask(),
            model_provider=module,
            dataset_provider=ToyDataset(),
            optimizer_provider=PLAIN_SGD,
        ).configure()
        trainer.event_bus.subscribe(EVENT_TRAIN_GRADIENTS_READY, noting(of_run))
        trainer.train()

    assert len(norms[0]) == 3
    assert norms[0] == pytest.approx(norms[1])
    torch.testing.assert_close(sparse.weight, dense.weight)


def noting(norms: list[float]) -> Callable[[EventGradientsReadyContext], None]:
    return lambda ctx: norms.append(ctx.norm.item())
