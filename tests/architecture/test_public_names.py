"""The names that users import are frozen: adding or removing one is a decision, made here as well.

The generated modules in `d9d.loop.event.catalogue` are not listed: `d9d-catalogue check` compares them with
`catalogue.yaml`.
"""

import ast
import builtins
import importlib
import inspect
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from documents import CodeBlock, code_blocks, guide_pages
from torch.distributed.checkpoint.api import CheckpointException

import d9d

ROOT = Path(__file__).parents[2]
CATALOGUE = "d9d.loop.event.catalogue"
# Made at run time; the stub has none, since a list without its contents would hide the names from type checkers.
D9D_ALL: list[str] = importlib.import_module("d9d").__all__

PUBLIC_NAMES = {
    "d9d.core.dist_context": {"DeviceMeshParameters", "DistributedContext", "MeshName"},
    "d9d.core.marks": {"collective", "waits_for_device"},
    "d9d.core.parallel": {"shard_data_parallel", "shard_experts"},
    "d9d.core.metric": {"MaxMetric", "Metric", "MetricValue", "Reduction", "SumMetric", "WeightedMeanMetric"},
    "d9d.core.protocol": {"LRSchedulerProtocol", "OptimizerProtocol", "Stateful"},
    "d9d.loop.component": {"LRSchedule", "OptimizerBuilder", "ParameterGroup"},
    "d9d.loop.config": {
        "CheckpointingConfig",
        "ConfigurationError",
        "DataLoadingConfig",
        "DeviceMeshParameters",
        "InferenceConfig",
        "KeepBest",
        "LoopConfig",
        "PipelineConfig",
        "Precision",
        "ProfilingConfig",
        "ReportingConfig",
        "ResumeConfig",
        "TimeoutConfig",
        "TrainingConfig",
    },
    "d9d.loop.control": {
        "BaseTask",
        "BuildForwardInputsContext",
        "BuildForwardInputsResult",
        "ComputeLossContext",
        "ComputeLossResult",
        "CreateMetricsContext",
        "DatasetProvider",
        "DatasetSource",
        "InferenceTask",
        "InitializeDatasetContext",
        "InitializeDatasetResult",
        "InitializeLRSchedulerContext",
        "InitializeModelStageContext",
        "InitializeModelStageResult",
        "InitializeModuleContext",
        "InitializeOptimizerContext",
        "LRSchedulerProvider",
        "LoopControl",
        "ModelProvider",
        "ModelSource",
        "OptimizerProvider",
        "ParallelizeModelStageContext",
        "ProcessOutputsContext",
        "RegisterModelEventsContext",
        "RegisterTaskEventsContext",
        "Report",
        "TrainTask",
    },
    "d9d.loop.event": {"Event", "EventBus", "Subscription", "TContext", "subscribe", "subscribe_annotated"},
    "d9d.loop.run": {"Inference", "InferenceConfigurator", "Trainer", "TrainingConfigurator", "launch"},
}


# `d9d` itself offers all of these, and what users type of modules that are not public.
PUBLIC_NAMES["d9d"] = set().union(*PUBLIC_NAMES.values()) | {
    "CheckpointError",
    "Emitter",
    "Evaluation",
    "NonFiniteGradientsError",
    "ScheduleName",
    "RenameFunction",
    "StagePosition",
    "StateError",
    "Stepper",
    "StopRequest",
    "WeightMapping",
    "WeightRule",
    "__version__",
    "load_config",
}
# Needs pytest, so it is imported by its own name.
PUBLIC_NAMES["d9d.testing"] = {"RecordingBus", "Triggered", "assert_triggered", "make_context", "recording_bus"}


@pytest.mark.parametrize("module", PUBLIC_NAMES)
def test_a_module_offers_just_these_names(module: str) -> None:
    """Each once, sorted, and there."""
    loaded = importlib.import_module(module)

    assert set(loaded.__all__) == PUBLIC_NAMES[module]
    assert list(loaded.__all__) == sorted(PUBLIC_NAMES[module])
    assert all(hasattr(loaded, name) for name in loaded.__all__)


def test_the_package_of_the_loops_offers_nothing() -> None:
    """It stays empty, so that importing one part loads no other."""
    assert not hasattr(importlib.import_module("d9d.loop"), "__all__")


@pytest.mark.parametrize("module", sorted(PUBLIC_NAMES.keys() - {"d9d", "d9d.testing"}))
def test_d9d_offers_the_very_objects_of_its_modules(module: str) -> None:
    """Whichever path a name is imported from."""
    loaded = importlib.import_module(module)

    assert all(getattr(d9d, name) is getattr(loaded, name) for name in loaded.__all__)


def test_d9d_has_no_other_attributes() -> None:
    """A misspelt name is an error that names it, and editors complete what there is."""
    with pytest.raises(AttributeError, match=r"module 'd9d' has no attribute 'Trainr'"):
        d9d.Trainr  # type: ignore[attr-defined] # noqa: B018

    assert set(D9D_ALL) < set(dir(d9d))
    assert {name for name in dir(d9d) if not name.startswith("__")} == PUBLIC_NAMES["d9d"] - {"__version__"}


def test_using_one_name_of_d9d_loads_no_other() -> None:
    """The Event Bus needs no torch."""
    program = "import sys, d9d; d9d.subscribe; assert 'Trainer' in dir(d9d); print('torch' in sys.modules)"

    run = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)

    assert run.stdout == "False\n"


def documented_errors() -> dict[str, str]:
    """Return the exceptions that docstrings name under `Raises:`, each with a place that does."""
    found: dict[str, str] = {}
    for path in sorted((ROOT / "d9d").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            _, _, section = inspect.cleandoc(ast.get_docstring(node) or "").partition("Raises:\n")
            section = re.split(r"\n\S", section)[0]
            for name in re.findall(r"^    (\w[\w.]*):", section, flags=re.MULTILINE):
                found[name] = f"{path.relative_to(ROOT)}, {getattr(node, 'name', 'module')}"
    return found


def test_each_exception_that_a_docstring_names_can_be_imported_from_d9d() -> None:
    """Or it is Python's, or torch's."""
    others = {**vars(builtins), "CheckpointException": CheckpointException}
    missing = {name: place for name, place in documented_errors().items() if name not in {*others, *D9D_ALL}}

    assert {"CheckpointError", "ConfigurationError", "StateError", "StopRequest"} <= documented_errors().keys()
    assert missing == {}


def imported_names(block: CodeBlock) -> Iterator[tuple[str, str]]:
    """Yield what a block of code imports of d9d, as pairs of a module and a name in it."""
    for node in ast.walk(ast.parse(block.code)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "d9d":
            yield from ((node.module or "", alias.name) for alias in node.names)
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "d9d":
            yield "d9d", node.attr


def is_public(module: str, name: str) -> bool:
    if module.startswith(CATALOGUE):
        return name in importlib.import_module(module).__all__
    return name in PUBLIC_NAMES.get(module, ())


def test_each_name_that_the_guide_imports_is_public() -> None:
    """From d9d itself, a module of generated events, or a public module."""
    used = {pair for page in guide_pages() for block in code_blocks(page, "python") for pair in imported_names(block)}

    assert len(used) > 20
    assert {f"{module}.{name}" for module, name in used if not is_public(module, name)} == set()


def classes_of_the_loops() -> set[str]:
    """Return the names of all classes of d9d, those of its mypy plugin aside."""
    trees = [
        ast.parse(path.read_text(encoding="utf-8"))
        for folder in ("core", "loop")
        for path in (ROOT / "d9d" / folder).rglob("*.py")
    ]
    return {node.name for tree in trees for node in tree.body if isinstance(node, ast.ClassDef)}


def test_each_class_that_the_guide_mentions_is_public() -> None:
    """A reader who meets a name can import it."""
    generated: set[Any] = set()
    for module in ("common", "inference", "train"):
        generated |= set(importlib.import_module(f"{CATALOGUE}.{module}").__all__)
    mentioned = {
        name for page in guide_pages() for name in re.findall(r"`([A-Z]\w+)\b", page.read_text(encoding="utf-8"))
    }

    assert "Trainer" in mentioned
    assert (mentioned & classes_of_the_loops()) - generated - set(D9D_ALL) == set()


def test_each_handle_and_setting_that_the_guide_names_exists() -> None:
    """Such as `trainer.save()` and `reporting.json_lines`; those of a trainer are its methods or properties."""
    text = "\n".join(page.read_text(encoding="utf-8") for page in guide_pages())
    handles = {"trainer": d9d.Trainer, "bus": d9d.EventBus, "ctx.dist_context": d9d.DistributedContext}
    settings = {name: field.annotation for name, field in d9d.TrainingConfig.model_fields.items()}
    roots = "|".join([*map(re.escape, handles), *settings])
    missing: set[str] = set()
    named = set(re.findall(rf"`({roots})\.(\w+)", text))
    for root, name in named:
        owner = handles.get(root, settings.get(root))
        # A setting that may be None is a union, of which one is a class of settings.
        owners = [owner, *getattr(owner, "__args__", ())]
        if not any(hasattr(each, name) or name in getattr(each, "model_fields", {}) for each in owners):
            missing.add(f"{root}.{name}")

    assert {("trainer", "save"), ("trainer", "export"), ("reporting", "json_lines")} <= named
    assert missing == set()
