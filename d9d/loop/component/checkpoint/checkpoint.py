"""One checkpoint on disk: whole, or visibly not."""

import dataclasses
import datetime as dt
import functools
import json
import secrets
import shutil
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Self

from d9d.loop.component.checkpoint.durable_file import synchronize_folder, write_json
from d9d.loop.component.checkpoint.job_description import describe_software
from d9d.loop.component.checkpoint.saved_state import READ_ERRORS, SavedState, damage_error, require_consistent
from d9d.loop.component.checkpoint.state_tree import empty_tensors, join_state
from d9d.loop.component.checkpoint.tensor_index import read_index
from d9d.loop.component.checkpoint.transient_folder import make_transient, remove_at_once
from d9d.loop.component.checkpoint.united_state import unite
from d9d.loop.component.ranks import ALONE, Ranks

FORMAT = 2
_MANIFEST = "checkpoint.json"
_OUTLINE = "state.json"
_MANIFEST_FIELDS = {"format": int, "id": str, "num_steps": int, "files": dict, "settings": dict}
_PREFIX = "step-"


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """A folder `step-N` that holds the state of a job after N steps.

    The tensors are written by `torch.distributed.checkpoint`; `state.json` is the outline of the state around them, and
    `checkpoint.json` says, for people and for completeness, what the folder must hold.

    Attributes:
        path: The folder.
    """

    path: Path

    @property
    def num_steps(self) -> int:
        """How many steps were complete when the checkpoint was taken."""
        return int(self.path.name.removeprefix(_PREFIX))

    @staticmethod
    def is_name(name: str) -> bool:
        """Say whether a folder of this name is a checkpoint."""
        return name.startswith(_PREFIX) and name.removeprefix(_PREFIX).isdecimal()

    @classmethod
    def list_in(cls, folder: Path) -> list[Self]:
        """List the checkpoints in a folder, complete or not.

        Args:
            folder: Where a job keeps its checkpoints; need not exist.

        Returns:
            The checkpoints, newest first.
        """
        found = [cls(path) for path in folder.glob(f"{_PREFIX}*") if cls.is_name(path.name) and path.is_dir()]
        return sorted(found, key=lambda checkpoint: checkpoint.num_steps, reverse=True)

    @classmethod
    def write(
        cls,
        folder: Path,
        num_steps: int,
        state: Mapping[str, Any],
        settings: Mapping[str, Any],
        *,
        ranks: Ranks = ALONE,
        differing: Collection[str] = (),
        notes: Mapping[str, Any] | None = None,
    ) -> Self:
        """Write a checkpoint, which appears under its name only when all of it is on disk.

        Args:
            folder: Where the job keeps its checkpoints; all ranks see the same folder.
            num_steps: How many steps are complete.
            state: The state of this rank, as `split_state` takes it.
            settings: What a job must share with this one to go on from here, in JSON's types.
            ranks: The processes of the job, all of which write.
            differing: As for `unite`.
            notes: What people may want to know besides, in JSON's types.

        Returns:
            The checkpoint.

        Raises:
            StateError: On all ranks, if the state cannot be kept.
            OSError: On all ranks, if the main one cannot write.
            CheckpointException: On all ranks, if any of them cannot write. It is no `Exception`.
        """
        from d9d.loop.component.checkpoint.tensor_files import save_tensors  # noqa: PLC0415 -- it loads torch's checkpoints

        checkpoint = cls(folder / f"{_PREFIX}{num_steps}")
        tensors, outline = unite(state, ranks, differing)
        manifest = {
            "format": FORMAT,
            "id": secrets.token_hex(8),
            "num_steps": num_steps,
            "time": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
            "num_ranks": ranks.num_ranks,
            "versions": describe_software(),
            **(notes or {}),
            "settings": settings,
        }
        partial = ranks.on_main(functools.partial(make_transient, checkpoint.path))
        try:
            save_tensors(partial, tensors, ranks)
            ranks.on_main(lambda: checkpoint._complete(partial, outline, manifest))
        except BaseException:
            if ranks.is_main:
                shutil.rmtree(partial, ignore_errors=True)
            raise
        return checkpoint

    def _complete(self, partial: Path, outline: Any, manifest: dict[str, Any]) -> None:
        """Write what there is once, and have all of it appear under its name."""
        write_json(partial / _OUTLINE, outline)
        # torch has said what the ranks wrote; one that writes to a disk of its own is found out here.
        written = {chunk[2] for entry in read_index(partial).values() for chunk in entry["chunks"]}
        missing = sorted(name for name in written if not (partial / name).is_file())
        if missing:
            raise FileNotFoundError(
                f"{missing[0]}, which another process has written, cannot be seen here: all processes need one folder"
            )
        sizes = {path.name: path.stat().st_size for path in sorted(partial.iterdir())}
        write_json(partial / _MANIFEST, {**manifest, "files": sizes})
        synchronize_folder(partial)
        self.remove()
        partial.rename(self.path)
        synchronize_folder(self.path.parent)

    def defect(self) -> str | None:
        """Say what is wrong with the checkpoint.

        Returns:
            What is missing or damaged, or `None` if the checkpoint is complete.
        """
        try:
            manifest = self.manifest()
        except (OSError, ValueError) as error:
            return f"its {_MANIFEST} cannot be read ({error})"
        if manifest["format"] != FORMAT:
            writer = manifest.get("versions", {}).get("d9d")
            return (
                f"it has format {manifest['format']!r}, and this version of d9d reads format {FORMAT}: go on with the "
                f"version that wrote it, {writer}"
            )
        if manifest["num_steps"] != self.num_steps:
            return f"it was taken after {manifest['num_steps']} steps, and has been renamed or copied since"
        for name, size in manifest["files"].items():
            file = self.path / name
            if not file.is_file():
                return f"its file {name} is missing"
            if file.stat().st_size != size:
                return f"its file {name} has {file.stat().st_size} bytes instead of {size}"
        return None

    def is_of_newer_format(self) -> bool:
        """Say whether a newer version of d9d has written it, whose checkpoints this one cannot judge."""
        try:
            return bool(self.manifest()["format"] > FORMAT)
        except (OSError, ValueError):
            return False

    def manifest(self) -> dict[str, Any]:
        """Read what the folder must hold, and which settings it belongs to.

        Returns:
            The content of `checkpoint.json`.

        Raises:
            OSError: If there is no such file.
            ValueError: If it holds no manifest.
        """
        manifest = json.loads((self.path / _MANIFEST).read_text(encoding="utf-8"))
        if not isinstance(manifest, dict) or not all(
            isinstance(manifest.get(name), kind) for name, kind in _MANIFEST_FIELDS.items()
        ):
            raise ValueError(f"{self.path / _MANIFEST} holds no manifest")
        return manifest

    def read(self, *parts: str) -> dict[str, Any]:
        """Read state back onto the CPU, all of it into this process.

        Args:
            *parts: Which of the top-level keys of the state to read; all of them if none is named.

        Returns:
            The state below those keys.

        Raises:
            CheckpointError: If what the files hold is damaged.
        """
        saved = self.open()
        outline = {"dict": [[key, value] for key, value in saved.outline["dict"] if not parts or key in parts]}
        tensors = empty_tensors(outline)
        saved.fill(tensors)
        state: dict[str, Any] = join_state(outline, tensors)
        return state

    def open(self, ranks: Ranks = ALONE) -> SavedState:
        """Read what there is, for each rank to read its part of it.

        Args:
            ranks: The processes that read, all of which call this.

        Returns:
            The state of all ranks.

        Raises:
            CheckpointError: On all ranks, if what the files hold is damaged.
        """

        def read_texts() -> tuple[Any, dict[str, Any], int]:
            try:
                outline, index = json.loads((self.path / _OUTLINE).read_text(encoding="utf-8")), read_index(self.path)
                require_consistent(outline, index)
                return outline, index, self.manifest()["num_ranks"]
            except READ_ERRORS as error:
                raise damage_error(self.path, error) from error

        outline, index, num_ranks = ranks.on_main(read_texts)
        return SavedState(folder=self.path, outline=outline, index=index, num_ranks=num_ranks, ranks=ranks)

    def remove(self) -> None:
        """Remove the checkpoint, if it is there, at one instant."""
        remove_at_once(self.path)
