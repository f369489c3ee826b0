"""Resuming: from which checkpoint a run starts, and which of its settings may differ from it."""

import dataclasses
import enum
import fnmatch
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from d9d.loop.component.checkpoint.files import CheckpointError
from d9d.loop.component.checkpoint.storage import Checkpoint, find_complete
from d9d.loop.config import ResumeConfig

_NUM_SHOWN = 10
_SCHEDULED = frozenset({"lr", "initial_lr", "max_lr", "min_lr", "momentum", "betas", "base_momentum", "max_momentum"})
"""The options of parameter groups that schedulers of torch set."""


FROZEN_WEIGHTS = "model_provider/frozen_weights"
"""The setting with the frozen weights that checkpoints leave out, if `source_checkpoint` does not name them."""


class SettingClass(enum.Enum):
    """What a run does with a setting that differs from the checkpoint that it resumes from."""

    IDENTITY = "identity"
    """It refuses: the checkpoint is of another job."""

    ADOPTED = "adopted"
    """It continues with the new value."""

    DATA_ORDER = "data order"
    """It refuses unless `resume.allow` names the setting, since other samples would be read."""


SETTING_CLASSES: Mapping[str, SettingClass] = {
    "loop": SettingClass.IDENTITY,
    "model/*": SettingClass.IDENTITY,
    "optimizer_class": SettingClass.IDENTITY,
    "optimizer/param_groups/*/num_parameters": SettingClass.IDENTITY,
    "optimizer/param_groups/*": SettingClass.ADOPTED,
    "optimizer/*": SettingClass.IDENTITY,
    "lr_scheduler_class": SettingClass.ADOPTED,
    "lr_scheduler/*": SettingClass.ADOPTED,
    "total_steps": SettingClass.ADOPTED,
    "max_gradient_norm": SettingClass.ADOPTED,
    "gradient_dtype": SettingClass.ADOPTED,
    "micro_batch_size": SettingClass.ADOPTED,
    "precision": SettingClass.ADOPTED,
    "global_batch_size": SettingClass.DATA_ORDER,
    "num_samples": SettingClass.DATA_ORDER,
    "seed": SettingClass.DATA_ORDER,
}
"""The class of each setting of a training run that checkpoints record; the first pattern that fits decides."""

INFERENCE_SETTING_CLASSES: Mapping[str, SettingClass] = {
    "micro_batch_size": SettingClass.ADOPTED,
    "global_batch_size": SettingClass.ADOPTED,
    "num_samples": SettingClass.DATA_ORDER,
}
"""The class of each setting of an inference run. All others may change outputs, which must not mix in one run."""


def class_of(name: str, classes: Mapping[str, SettingClass] = SETTING_CLASSES) -> SettingClass:
    """Return the class of a setting.

    Args:
        name: Its name, as checkpoints record it. A setting that no pattern names is part of the identity.
        classes: The classes of the settings of this kind of run.
    """
    patterns = (pattern for pattern in classes if fnmatch.fnmatchcase(name, pattern))
    return classes.get(next(patterns, ""), SettingClass.IDENTITY)


@dataclasses.dataclass(frozen=True)
class Change:
    """A setting that differs between a run and the checkpoint that it resumes from.

    Attributes:
        name: Its name.
        here: Its value in the run; `None` if the run does not have it.
        there: Its value in the checkpoint; `None` if the checkpoint does not have it.
    """

    name: str
    here: Any
    there: Any

    def __str__(self) -> str:
        """Return a line with both values."""
        return f"{self.name} is {self.here!r} here and {self.there!r} in the checkpoint"


@dataclasses.dataclass(frozen=True)
class Changes:
    """All settings that differ, none of which is refused.

    Attributes:
        settings: The settings.
        has_functions: Whether the learning rate schedule has functions of the user, as `LambdaLR` has. Checkpoints do
            not record them, and they may depend on the total steps.
    """

    settings: tuple[Change, ...] = ()
    has_functions: bool = False

    @property
    def replays_schedule(self) -> bool:
        """Whether the learning rates follow another schedule, or start from other values."""
        rates = ("lr_scheduler", "optimizer/param_groups/*/lr", "optimizer/param_groups/*/initial_lr")
        return any(
            change.name.startswith("lr_scheduler")
            or any(fnmatch.fnmatchcase(change.name, rate) for rate in rates)
            or (self.has_functions and change.name == "total_steps")
            for change in self.settings
        )

    @property
    def optimizer_options(self) -> frozenset[str]:
        """The options of the optimizer that differ in any of its parameter groups, or that a new schedule sets."""
        groups = [change.name for change in self.settings if change.name.startswith("optimizer/param_groups/")]
        return frozenset(name.split("/")[3] for name in groups) | (_SCHEDULED if self.replays_schedule else frozenset())


NO_CHANGES = Changes()
"""A run that resumes unchanged."""


def compare(here: Mapping[str, Any], there: Mapping[str, Any]) -> list[Change]:
    """Compare the settings of a run with those of a checkpoint.

    Args:
        here: The settings of the run, by name.
        there: The settings of the checkpoint. One of an older version may lack the classes of the optimizer and the
            scheduler, and the frozen weights, which are not compared then.

    Returns:
        The settings that differ.
    """
    unknown = {name for name in ("optimizer_class", "lr_scheduler_class", FROZEN_WEIGHTS) if name not in there}
    changes = [
        Change(name, here.get(name), there.get(name))
        for name in dict.fromkeys([*here, *there])
        if name not in unknown and (name in here, here.get(name)) != (name in there, there.get(name))
    ]
    if "optimizer_class" in unknown and any(_is_of_one_optimizer(change) for change in changes):
        changes.append(Change("optimizer_class", here.get("optimizer_class"), None))
    return changes


def _is_of_one_optimizer(change: Change) -> bool:
    """Return whether a change is an option that only one of two kinds of optimizers has; schedules add some too."""
    is_option = change.name.startswith("optimizer/param_groups/") and None in (change.here, change.there)
    return is_option and not change.name.endswith(("/initial_lr", "/max_lr", "/min_lr", "_momentum"))


def require_resumable(changes: Collection[Change], path: Path, allow: Collection[str], loop: str) -> Changes:
    """Refuse to resume where settings differ that must not.

    Args:
        changes: The settings that differ.
        path: The checkpoint.
        allow: The settings of the data order that may differ.
        loop: The kind of run: `train` or `inference`.

    Returns:
        The differences, all of which the run adopts.

    Raises:
        CheckpointError: If a setting differs that must not, with both values of each and what to do.
    """
    classes = INFERENCE_SETTING_CLASSES if loop == "inference" else SETTING_CLASSES
    identity = [change for change in changes if class_of(change.name, classes) is SettingClass.IDENTITY]
    if identity:
        raise CheckpointError(
            f"{path} is a checkpoint of another job:\n{_list(identity)}\nRestore these settings to resume from it. To "
            f"start from its weights instead, set source_checkpoint={str(path)!r} and another checkpointing.folder."
        )
    order = [change for change in changes if class_of(change.name, classes) is SettingClass.DATA_ORDER]
    refused = [change for change in order if change.name not in allow]
    if refused:
        names = ", ".join(repr(name) for name in dict.fromkeys([*allow, *(change.name for change in refused)]))
        difference = "has another dataset" if loop == "inference" else "reads its data in another order"
        raise CheckpointError(
            f"{path} was saved by a run that {difference}:\n{_list(refused)}\nRestore these "
            f"settings, or allow the run to change them with resume=ResumeConfig(allow=[{names}])."
        )
    return Changes(tuple(changes))


def _list(changes: Collection[Change]) -> str:
    lines = [f"  {change}" for change in [*changes][:_NUM_SHOWN]]
    if len(changes) > _NUM_SHOWN:
        lines.append(f"  … and {len(changes) - _NUM_SHOWN} more")
    return "\n".join(lines)


def data_position_of(checkpoint: Checkpoint) -> dict[str, int] | None:
    """Return where the data of a run continues, as `Epochs` or `SequentialSteps` describe it.

    Args:
        checkpoint: The checkpoint that the run resumes from. One of an older version does not say it, but its settings
            do.

    Returns:
        The position; `None` for iterable data.
    """
    manifest = checkpoint.manifest()
    settings, position = manifest["settings"], manifest.get("data_position")
    if position is None and "num_samples" in settings:
        taken, num_samples = checkpoint.num_steps * settings["global_batch_size"], settings["num_samples"]
        if settings["loop"] == "inference":
            return {"step": checkpoint.num_steps, "sample": min(taken, num_samples)}
        position = {
            "step": checkpoint.num_steps,
            "epoch": taken // num_samples,
            "num_samples": num_samples,
            "seed": settings["seed"],
            "offset": taken % num_samples,
        }
    return position


@dataclasses.dataclass(frozen=True)
class Origin:
    """The checkpoint that a run starts from.

    Attributes:
        checkpoint: The checkpoint.
        is_branch: Whether `resume.checkpoint` names it, and the run has no checkpoint that continues from there.
    """

    checkpoint: Checkpoint
    is_branch: bool


def find_origin(folder: Path, resume: ResumeConfig) -> Origin | None:
    """Find the checkpoint that a run starts from.

    Args:
        folder: The folder in which the run keeps its checkpoints.
        resume: Which checkpoint is wanted.

    Returns:
        The checkpoint; `None` if the run starts fresh.

    Raises:
        CheckpointError: If there is none and there must be one, if there are checkpoints and there must be none, if
            those in the folder did not branch off the wanted one, or if a checkpoint cannot be loaded.
    """
    if resume.mode == "never":
        existing = Checkpoint.list_in(folder)
        if existing:
            raise CheckpointError(
                f"resume.mode='never' starts a fresh run, but {folder} has {existing[0].path.name} of an earlier one: "
                "choose another checkpointing.folder, or move the checkpoints elsewhere"
            )
        return None
    own = find_complete(folder)
    if resume.checkpoint is not None and not (own and _has_outlived(own, resume.checkpoint)):
        wanted = _find_wanted(resume.checkpoint)
        if resume.parts != "everything" and _is_in(wanted, folder):
            raise CheckpointError(
                f"resume.parts={resume.parts!r} starts a new run, and resume.checkpoint={str(resume.checkpoint)!r} is "
                "in checkpointing.folder: choose another folder for the new run"
            )
        if own is None or (_is_in(wanted, folder) and not _continues(own, wanted)):
            return Origin(wanted, is_branch=True)
        if not _continues(own, wanted) and resume.checkpoint.resolve() not in _places_of_branches(own):
            raise CheckpointError(
                f"{own.path} is of a run that did not branch off resume.checkpoint={str(resume.checkpoint)!r}: choose "
                "another checkpointing.folder for the new branch, or leave resume.checkpoint out to continue this run"
            )
    if own is None and resume.mode == "must":
        raise CheckpointError(
            f"resume.mode='must' needs a checkpoint to resume from, and {folder} has none: name one in "
            "resume.checkpoint, correct checkpointing.folder, or set resume.mode='auto'"
        )
    return None if own is None else Origin(own, is_branch=False)


def describe_origin(origin: Checkpoint, changes: Changes, *, is_branch: bool) -> list[dict[str, Any]]:
    """Describe where a run comes from, for its checkpoints.

    Args:
        origin: The checkpoint that it resumes from.
        changes: The settings that differ.
        is_branch: Whether it branches off the run of that checkpoint.

    Returns:
        The lineage of that checkpoint, with one more entry if anything changes.
    """
    manifest = origin.manifest()
    lineage: list[dict[str, Any]] = manifest.get("lineage", [])
    if not changes.settings and not is_branch:
        return lineage
    return [
        *lineage,
        {
            "id": manifest["id"],
            "path": str(origin.path.resolve()),
            "step": origin.num_steps,
            "is_branch": is_branch,
            "changes": {change.name: [change.there, change.here] for change in changes.settings},
        },
    ]


def abandon_newer(folder: Path, checkpoint: Checkpoint) -> None:
    """Set aside the checkpoints of a folder that are newer than the one that a run branches from.

    They are kept under another name, so that they are neither resumed from nor removed.

    Args:
        folder: The folder in which the run keeps its checkpoints.
        checkpoint: The checkpoint that it resumes from.
    """
    for newer in Checkpoint.list_in(folder):
        if newer.num_steps > checkpoint.num_steps:
            newer.path.rename(_unused(folder / f"abandoned-{newer.path.name}"))


def _find_wanted(path: Path) -> Checkpoint:
    if Checkpoint.is_name(path.name):
        wanted = Checkpoint(path)
        problem = wanted.problem()
        if problem is not None:
            raise CheckpointError(f"resume.checkpoint={str(path)!r} cannot be loaded: {problem}")
        return wanted
    found = find_complete(path)
    if found is None:
        raise CheckpointError(
            f"resume.checkpoint={str(path)!r} is neither a checkpoint, such as …/step-1000, nor a folder of checkpoints"
        )
    return found


def _is_in(checkpoint: Checkpoint, folder: Path) -> bool:
    return checkpoint.path.resolve().parent == folder.resolve()


def _continues(checkpoint: Checkpoint, origin: Checkpoint) -> bool:
    """Return whether a checkpoint is of a run that branched off another one, or is that one itself."""
    manifest, wanted = checkpoint.manifest(), origin.manifest()["id"]
    branches = (entry["id"] for entry in manifest.get("lineage", ()) if entry.get("is_branch"))
    return wanted in (manifest["id"], *branches)


def _has_outlived(checkpoint: Checkpoint, origin: Path) -> bool:
    """Return whether a checkpoint is of a run that branched off another one, which has been removed since."""
    return not origin.exists() and origin.resolve() in _places_of_branches(checkpoint)


def _places_of_branches(checkpoint: Checkpoint) -> set[Path]:
    """Return the checkpoints that the run of a checkpoint branched off, and their folders."""
    branches = (entry["path"] for entry in checkpoint.manifest().get("lineage", ()) if entry.get("is_branch"))
    return {place for path in map(Path, branches) for place in (path, path.parent)}


def _unused(path: Path) -> Path:
    number = 1
    while (candidate := path if number == 1 else path.with_name(f"{path.name}-{number}")).exists():
        number += 1
    return candidate
