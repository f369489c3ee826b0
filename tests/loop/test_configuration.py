"""A configuration that does not work is refused before the model is built. The error names the field."""

import ast
import inspect
import itertools
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import Dataset

from d9d import load_config
from d9d.core.settings import Settings
from d9d.loop.config import (
    CheckpointingConfig,
    ConfigurationError,
    DeviceMeshParameters,
    InferenceConfig,
    ReportingConfig,
    ResumeConfig,
    TrainingConfig,
)
from d9d.loop.event import subscribe
from d9d.loop.event.catalogue.train import EVENT_TRAIN_CONFIG_STARTED, EventConfigurationStartedContext
from d9d.loop.run import TrainingConfigurator

from .toy_job import (
    QUIET,
    ToyDataset,
    ToyDatasetProvider,
    ToyModelProvider,
    ToyTask,
    configure_inference,
    configure_training,
    inference_config,
    training_config,
)

REFUSED = [
    pytest.param(
        {"micro_batch_size": 3},
        "global_batch_size=4 cannot be divided into micro-batches of micro_batch_size=3: it must be",
        id="batches-that-do-not-divide",
    ),
    pytest.param({"micro_batch_size": 8}, "micro_batch_size=8", id="micro-batch-larger-than-the-step"),
    pytest.param({"global_batch_size": 0}, "global_batch_size\n  Input should be greater than 0", id="no-batch"),
    pytest.param({"micro_batch_size": 0}, "micro_batch_size\n  Input should be greater than 0", id="no-micro-batch"),
    pytest.param({"seed": -1}, "seed\n  Input should be greater than or equal to 0", id="negative-seed"),
    pytest.param({"precision": "fp8"}, "precision\n  Input should be 'fp32' or 'bf16-autocast'", id="precision"),
    pytest.param(
        {"timeouts": {"step_seconds": math.inf}}, "step_seconds\n  Input should be a finite number", id="infinite"
    ),
    pytest.param(
        {"microbatch_size": 2},
        "Config has no field 'microbatch_size'; did you mean 'micro_batch_size'?",
        id="misspelt",
    ),
    pytest.param({"entirely_unlike": 2}, "entirely_unlike\n  Extra inputs are not permitted", id="unknown"),
    pytest.param({"data_loading": {"num_workers": -1}}, "data_loading.num_workers\n  Input should be", id="workers"),
    pytest.param(
        {"data_loading": {"workers": 1}},
        "DataLoadingConfig has no field 'workers'; did you mean 'num_workers'?",
        id="misspelt-inside",
    ),
    pytest.param(
        {"checkpointing": {"folder": "checkpoints", "period_steps": 0}},
        "checkpointing.period_steps\n  Input should be greater than 0",
        id="no-period",
    ),
    pytest.param(
        {"checkpointing": {"folder": "checkpoints", "num_to_keep": 0}},
        "checkpointing.num_to_keep\n  Input should be greater than 0",
        id="keep-none",
    ),
    pytest.param({"checkpointing": {}}, "checkpointing.folder\n  Field required", id="no-folder"),
    pytest.param({"reporting": {"period_steps": 0}}, "reporting.period_steps\n  Input should be", id="no-reports"),
]
REFUSED_IN_TRAINING = [
    pytest.param({"total_steps": 0}, "total_steps\n  Input should be greater than 0", id="no-step"),
    pytest.param({"total_steps": -3}, "total_steps\n  Input should be greater than 0", id="negative-steps"),
    pytest.param({"total_steps": 1.5}, "total_steps\n  Input should be a valid integer", id="half-a-step"),
    pytest.param({"max_gradient_norm": 0}, "max_gradient_norm\n  Input should be greater than 0", id="no-norm"),
    pytest.param({"max_gradient_norm": -1.0}, "max_gradient_norm\n  Input should be greater than 0", id="norm"),
    pytest.param({"total_step": 3}, "TrainingConfig has no field 'total_step'; did you mean 'total_steps'?", id="name"),
]


class EndlessDataset(Dataset[dict[str, torch.Tensor]]):
    """Has samples, but no length."""

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"checkpoint": "runs/a/step-1", "mode": "never"}, "mode='never' starts fresh, and checkpoint='"),
        ({"parts": "weights"}, "parts='weights' says what is taken from checkpoint, which is None: set it too"),
    ],
)
def test_a_resume_that_contradicts_itself_is_refused(settings: dict[str, Any], message: str) -> None:
    """One of the two would be ignored."""
    with pytest.raises(ValueError, match="validation error") as caught:
        ResumeConfig(**settings)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("resume", "field"),
    [(ResumeConfig(mode="must"), "mode"), (ResumeConfig(checkpoint=Path("runs/a/step-1")), "checkpoint")],
)
@pytest.mark.parametrize("make", [training_config, inference_config])
def test_a_run_without_checkpointing_does_not_start_fresh_where_it_must_resume(
    make: Any, resume: ResumeConfig, field: str
) -> None:
    """It would, without a word."""
    with pytest.raises(ValueError, match=f"resume.{field} is set, and checkpointing is None, so the run could not"):
        make(resume=resume)


def test_inference_takes_no_weights_from_a_checkpoint_of_inference(tmp_path: Path) -> None:
    """It has none: the run would use other weights."""
    resume = ResumeConfig(checkpoint=tmp_path / "step-1", parts="weights")

    with pytest.raises(ValueError, match=r"resume.parts='weights' starts a new run, and inference takes its weights"):
        inference_config(CheckpointingConfig(folder=tmp_path), resume=resume)


@pytest.mark.parametrize(("settings", "message"), REFUSED)
@pytest.mark.parametrize("make", [training_config, inference_config])
def test_invalid_settings_are_refused(make: Any, settings: dict[str, Any], message: str) -> None:
    """For training and for inference. The error names the field."""
    with pytest.raises(ValueError, match="validation error") as caught:
        make(**settings)
    assert message in str(caught.value)


@pytest.mark.parametrize(("settings", "message"), REFUSED_IN_TRAINING)
def test_invalid_settings_of_training_are_refused(settings: dict[str, Any], message: str) -> None:
    """Those that only training has."""
    with pytest.raises(ValueError, match="validation error") as caught:
        training_config(**settings)
    assert message in str(caught.value)


@pytest.mark.parametrize("missing", ["total_steps", "global_batch_size"])
def test_two_settings_are_required(missing: str) -> None:
    """The length of the run and the size of a step."""
    settings = {"total_steps": 1, "global_batch_size": 1}
    del settings[missing]

    with pytest.raises(ValueError, match=f"{missing}\n  Field required"):
        TrainingConfig.model_validate(settings)


def test_all_other_settings_have_a_default() -> None:
    """Training needs two numbers, and inference one."""
    assert TrainingConfig(total_steps=1, global_batch_size=1).num_micro_batches == 1
    assert InferenceConfig(global_batch_size=1).checkpointing is None


def test_settings_are_immutable() -> None:
    """They stay as they were checked."""
    config, field = training_config(), "seed"

    with pytest.raises(ValueError, match="Instance is frozen"):
        setattr(config, field, 1)


def settings_below(config: type[Settings]) -> list[type[Settings]]:
    return [config, *(found for below in config.__subclasses__() for found in settings_below(below))]


@pytest.mark.parametrize("config", [found for found in settings_below(Settings) if found.__module__.startswith("d9d.")])
def test_each_setting_has_a_docstring(config: type[Settings]) -> None:
    """Editors show it. It is read from the source, because pydantic would need 20 ms to do so at run time."""
    (defined,) = ast.parse(inspect.getsource(config)).body
    assert isinstance(defined, ast.ClassDef)
    for statement, below in itertools.pairwise([*defined.body, ast.Pass()]):
        if isinstance(statement, ast.AnnAssign):
            assert isinstance(below, ast.Expr), ast.unparse(statement)
            assert isinstance(below.value, ast.Constant), ast.unparse(statement)


@pytest.mark.parametrize(
    ("dataset", "message"),
    [
        (ToyDataset(0), "the dataset from dataset_provider, of type ToyDataset, is empty: check"),
        (
            EndlessDataset(),
            "the dataset from dataset_provider, of type EndlessDataset, has no length: define __len__ and __getitem__",
        ),
    ],
    ids=["no-samples", "no-length"],
)
def test_a_dataset_without_samples_or_length_is_refused(dataset: Dataset[Any], message: str) -> None:
    """In training and inference, before the model is built."""
    provider = ToyModelProvider()

    with pytest.raises(ConfigurationError) as caught:
        configure_training(training_config(), model_provider=provider, dataset=dataset)
    assert message in str(caught.value)
    with pytest.raises(ConfigurationError) as caught:
        configure_inference(inference_config(), model_provider=provider, dataset=dataset)
    assert message in str(caught.value)
    assert provider.num_built == 0


@pytest.mark.parametrize("device", ["cuda:99", "abacus", "xpu"])
def test_a_device_that_does_not_exist_is_refused(device: str) -> None:
    """The error names the setting, and the model is not built."""
    provider = ToyModelProvider()

    with pytest.raises(RuntimeError, match=f"device='{device}' cannot be used on this machine"):
        configure_training(training_config(device=device), model_provider=provider)
    with pytest.raises(RuntimeError, match=f"device='{device}' cannot be used on this machine"):
        configure_inference(inference_config(device=device), model_provider=provider)
    assert provider.num_built == 0


def test_several_processes_without_a_mesh_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """They would all do the same work. The error suggests a mesh, and the model is not built."""
    provider = ToyModelProvider()
    monkeypatch.setenv("WORLD_SIZE", "2")

    with pytest.raises(ConfigurationError, match="2 processes were started: set data_parallel_shard=2"):
        configure_training(training_config(), model_provider=provider)
    with pytest.raises(ConfigurationError, match="2 processes were started: set data_parallel_shard=2"):
        configure_inference(inference_config(), model_provider=provider)
    assert provider.num_built == 0


def test_a_global_batch_that_does_not_divide_among_processes_is_refused() -> None:
    """The error names sizes that would work."""
    message = (
        "global_batch_size=6 cannot be divided into micro-batches of micro_batch_size=2 on 2 data-parallel processes"
    )
    with pytest.raises(ValueError, match=f"{message}: it must be a multiple of 4, such as 4 or 8"):
        training_config(global_batch_size=6, mesh=DeviceMeshParameters(data_parallel_shard=2))


def test_a_launcher_may_start_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """It sets the variable too."""
    monkeypatch.setenv("WORLD_SIZE", "1")

    configure_training(training_config()).train()


def test_a_default_run_reports_and_trains(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Without a terminal it logs its start, every tenth step, the last one with the loss, and its end."""
    monkeypatch.chdir(tmp_path)
    caplog.set_level("INFO", logger="d9d")
    config = TrainingConfig(total_steps=12, global_batch_size=2, device="cpu")

    configure_training(config).train()
    first, *lines, last = [record.getMessage() for record in caplog.records if record.name.startswith("d9d.")]

    assert first == (
        "train: 12 steps, 2 samples each, on cpu, 1 process; 21 parameters in float32, weights as the model provider "
        "made them; reports in runs/metrics.jsonl"
    )
    assert last.startswith("train: finished after 12 of 12 steps, in ")
    assert last.endswith(": all steps are done")
    assert [line.split(":")[1] for line in lines] == [" step 10 of 12", " step 12 of 12"]
    assert all("loss " in line and "steps/s" in line for line in lines)
    assert len((tmp_path / "runs" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()) == 2


def test_a_progress_bar_is_drawn_if_it_is_configured(capsys: pytest.CaptureFixture[str]) -> None:
    """It counts the steps and shows the latest reported loss."""
    reporting = ReportingConfig(progress_bar=True, period_steps=1, json_lines=None)

    configure_training(training_config(reporting=reporting)).train()
    bar = capsys.readouterr().err

    assert "train" in bar
    assert "3/3" in bar
    assert "step 3: loss " in bar


def test_a_quiet_run_prints_and_logs_nothing(
    capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    """Neither a progress bar nor a line."""
    caplog.set_level("INFO", logger="d9d")

    configure_training(training_config(reporting=QUIET)).train()

    assert capsys.readouterr() == ("", "")
    assert [record for record in caplog.records if record.name.startswith("d9d.")] == []


class SettingsTracker:
    """Keeps the settings of a run, as a tracker of experiments does."""

    def __init__(self) -> None:
        self.settings: dict[str, Any] = {}

    @subscribe(EVENT_TRAIN_CONFIG_STARTED)
    def record(self, ctx: EventConfigurationStartedContext) -> None:
        self.settings.update(ctx.settings)


def test_handlers_get_the_settings_of_files_and_options(tmp_path: Path) -> None:
    """Merged, with those that a subclass adds, as a dict that `--config` reads again."""

    class JobConfig(TrainingConfig):
        hidden_size: int = 8
        """The number of features."""

    base, tracker, again = tmp_path / "base.yaml", SettingsTracker(), tmp_path / "again.json"
    base.write_text("{hidden_size: 16, device: cpu, total_steps: 3, reporting: {json_lines: null}}", encoding="utf-8")
    config = load_config(JobConfig, ["--config", str(base), "--total-steps", "2", "--global-batch-size", "4"])

    TrainingConfigurator(
        config=config,
        task=ToyTask(),
        model_provider=ToyModelProvider(),
        dataset_provider=ToyDatasetProvider(),
        subscribers=[tracker],
    ).configure()

    again.write_text(json.dumps(tracker.settings), encoding="utf-8")
    assert (tracker.settings["hidden_size"], tracker.settings["total_steps"]) == (16, 2)
    assert load_config(JobConfig, ["--config", str(again)]) == config
