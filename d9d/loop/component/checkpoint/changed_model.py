"""Resuming into a model that has changed: weights and moments have other names or shapes in the checkpoint."""

import dataclasses
import logging
from typing import Any

import torch
from torch import nn

from d9d.loop.component.checkpoint.files import CheckpointError
from d9d.loop.component.checkpoint.sharded_state import ModelState, OptimizerState
from d9d.loop.component.checkpoint.source import SourceWeights
from d9d.loop.component.checkpoint.state_dict import Region, allocate_tensors, join_state
from d9d.loop.component.checkpoint.storage import Checkpoint, SavedState
from d9d.loop.component.checkpoint.weight_mapping import LoadPlan, Recipe, WeightMapping, follow
from d9d.loop.component.ranks import Ranks

logger = logging.getLogger(__name__)


class ChangedModel:
    """Loads the weights and moments of a checkpoint into a model that has changed since.

    A moment of the shape of its weight is divided and joined as the weight is. A weight that is new starts without
    moments, as at the beginning of a run.

    Args:
        mapping: How the weights of the checkpoint correspond to those of the model.
        model: The model.
        optimizer: The optimizer; `None` if its state is not loaded.
        ranks: The ranks of the job, all of which call each method.
    """

    def __init__(
        self, mapping: WeightMapping, model: ModelState, optimizer: OptimizerState | None, ranks: Ranks
    ) -> None:
        self._mapping = mapping
        self._model = model
        self._optimizer = optimizer
        self._ranks = ranks

    def is_in(self, saved: SavedState) -> bool:
        """Return whether the model of a checkpoint differs from this one."""
        own = {name: value for name, value in self._model.state_dict().items() if isinstance(value, torch.Tensor)}
        of_ranks = self._ranks.gather({name: (value.dtype, tuple(value.shape)) for name, value in own.items()})
        here = {name: info for each in of_ranks for name, info in each.items()}
        return here != {name: (info.dtype, info.shape) for name, (_, info) in saved.weights().items()}

    def load(self, saved: SavedState) -> None:
        """Load the weights and the moments.

        Args:
            saved: The state of all ranks.

        Raises:
            CheckpointError: On all ranks, if they cannot be read or the mapping does not fit them.
        """
        left_out = self._model.weights().keys() - self._model.state_dict().keys()
        frozen = {name for names in self._ranks.gather(left_out) for name in names}
        mapping = dataclasses.replace(self._mapping, missing=(*self._mapping.missing, *sorted(frozen)))
        weights = SourceWeights((Checkpoint(saved.path),), mapping, self._model.tied)
        plan = weights.plan(self._model.modules, self._ranks)
        weights.load(self._model.modules, self._ranks)
        if self._optimizer is not None:
            self._load_optimizer(self._optimizer, saved, plan)

    def _load_optimizer(self, optimizer: OptimizerState, saved: SavedState, plan: LoadPlan) -> None:
        moments = _Moments(saved)
        current = optimizer.state_dict()["param_groups"]
        described = self._ranks.run_on_all_ranks(
            lambda: {
                name: moments.describe(plan.recipes[name][1], parameter)
                for name, parameter in optimizer.parameters().items()
                if name in plan.recipes
            }
        )
        saved.load_regions(moments.regions)
        others = {"dict": [pair for pair in saved.metadata_at("optimizer")["dict"] if pair[0] not in _BY_WEIGHT]}
        tensors = allocate_tensors(others) | moments.whole
        saved.load({path: tensor for path, tensor in tensors.items() if path not in moments.divided})
        tensors |= moments.divided

        def load() -> None:
            state = {name: join_state(value, tensors) for name, (value, _) in described.items() if value is not None}
            options = {name: join_state(value, tensors) for name, (_, value) in described.items()}
            optimizer.load_state_dict(
                {**join_state(others, tensors), "state": state, "param_groups": {**current, **options}}
            )

        self._ranks.run_on_all_ranks(load)


_BY_WEIGHT = ("state", "param_groups")


class _Moments:
    """What a checkpoint has of an optimizer, and the memory to load it into.

    Args:
        saved: The state of all ranks.
    """

    def __init__(self, saved: SavedState) -> None:
        self._shapes = {name: info.shape for name, (_, info) in saved.weights().items()}
        self._state = dict(saved.metadata_at("optimizer", "state")["dict"])
        self._options = dict(saved.metadata_at("optimizer", "param_groups")["dict"])
        self.regions: dict[str, list[Region]] = {}
        self.whole: dict[str, torch.Tensor] = {}
        self.divided: dict[str, torch.Tensor] = {}

    def describe(self, recipe: Recipe, parameter: nn.Parameter | torch.Tensor) -> tuple[Any, Any]:
        """Return the metadata of the moments and of the options of a weight, and plan to load them."""
        first, _ = recipe.parts[0]
        if first not in self._options:
            raise CheckpointError(
                f"the checkpoint has no options of the optimizer for {first!r}: it was not trained there. Load its "
                "weights alone, with resume=ResumeConfig(checkpoint=..., parts='weights')"
            )
        options = self._options[first]
        self.whole |= allocate_tensors(options)
        if first not in self._state:
            return None, options
        moments: list[Any] = []
        for key, value in self._state[first]["dict"]:
            if not (isinstance(value, dict) and "tensor" in value):
                moments.append([key, value])
                continue
            shape = tuple(value["tensor"]["shape"])
            if shape not in ((), self._shapes[first]):
                logger.warning("%r of %r does not have the shape of its weight: its moments start fresh", key, first)
                return None, options
            moments.append([key, self._plan(key, value["tensor"], recipe, parameter)])
        return {"dict": moments}, options

    def _plan(self, key: Any, like: dict[str, Any], recipe: Recipe, parameter: torch.Tensor) -> Any:
        """Plan to load a moment as its weight is loaded, or a number, such as a count, and return its metadata."""
        path, is_number = f"{like['path']} of {id(parameter)}", not like["shape"]
        shape = [] if is_number else list(recipe.info.shape)
        metadata = {"tensor": {"path": path, "dtype": like["dtype"], "shape": shape}}
        self.divided[path] = allocate_tensors(metadata, parameter)[path]
        own = Region.of(self.divided[path])
        for part, steps in recipe.parts[:1] if is_number else recipe.parts:
            region = own if is_number else follow(steps, own)
            stored = dict(self._state[part]["dict"])[key]["tensor"]["path"] if part in self._state else None
            if region is not None and stored is not None:
                self.regions.setdefault(stored, []).append(region)
            elif region is not None:
                region.tensor.zero_()
        return metadata
