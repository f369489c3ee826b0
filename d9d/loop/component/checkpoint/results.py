"""The results of evaluations in checkpoints: those of the current step, and which steps have the best so far."""

from collections.abc import Iterable, Mapping
from typing import Any, TypeAlias

from d9d.core.stepper import Stepper
from d9d.loop.component.checkpoint.storage import Checkpoint
from d9d.loop.component.sinks import in_json
from d9d.loop.config import ConfigurationError, KeepBest

Scores: TypeAlias = list[tuple[float, int]]
"""Values of the metric that decides, each with its step, the best one first."""


class EvaluationResults:
    """Collects the results of the evaluations of each step, and knows the steps with the best ones.

    Args:
        keep_best: The metric that decides; `None` if no checkpoint is kept because of a result.
        stepper: Counts the steps.
    """

    def __init__(self, keep_best: KeepBest | None, stepper: Stepper) -> None:
        self._keep_best = keep_best
        self._stepper = stepper
        self._step = 0
        self._results: dict[str, dict[str, float | str]] = {}
        self._best: Scores = []
        self._has_seen_metric = False

    @property
    def best_steps(self) -> frozenset[int]:
        """The steps whose checkpoints are kept because of their results."""
        return frozenset(step for _, step in self._best)

    def record(self, name: str, metrics: Mapping[str, float]) -> bool:
        """Add the results of an evaluation of this step.

        Args:
            name: The name of the evaluation.
            metrics: Its results by name, the same on all ranks.

        Returns:
            Whether the checkpoint of this step is one of the best now.

        Raises:
            ConfigurationError: If the metric that decides has never been there.
        """
        numbers = {number: in_json(value) for number, value in metrics.items()}
        self._results = {**self.of_this_step(), name: numbers}
        self._step = self._stepper.current_step
        keep_best = self._keep_best
        if keep_best is None or keep_best.evaluation != name:
            return False
        value = metrics.get(keep_best.number)
        if value is None:
            if self._has_seen_metric:  # a mean over nothing has no value
                return False
            found = ", ".join(repr(f"{name}/{number}") for number in metrics)
            raise ConfigurationError(
                f"checkpointing.keep_best.metric is {keep_best.metric!r}, and evaluation {name!r} has no such result: "
                f"name one of {found}"
                if found
                else f"checkpointing.keep_best.metric is {keep_best.metric!r}, and evaluation {name!r} has no results: "
                "let its task create metrics"
            )
        self._has_seen_metric = True
        if self._step == 0:  # nothing is saved before the first step
            return False
        self._best = _rank(keep_best, [*(score for score in self._best if score[1] != self._step), (value, self._step)])
        return self._step in self.best_steps

    def of_this_step(self) -> dict[str, dict[str, float | str]]:
        """Return the results of each evaluation of this step by its name, in JSON's types."""
        return dict(self._results) if self._step == self._stepper.current_step else {}

    def find_best(self, checkpoints: Iterable[Checkpoint]) -> Scores:
        """Find the best results in checkpoints.

        Args:
            checkpoints: Complete checkpoints.
        """
        keep_best = self._keep_best
        if keep_best is None:
            return []
        scores: Scores = []
        for checkpoint in checkpoints:
            results: Mapping[str, Mapping[str, Any]] = checkpoint.manifest().get("evaluations", {})
            value = results.get(keep_best.evaluation, {}).get(keep_best.number)
            if value is not None:
                scores.append((float(value), checkpoint.num_steps))
        return _rank(keep_best, scores)

    def resume(self, best: Scores) -> None:
        """Continue with the best results that `find_best` has found."""
        self._best = best
        self._has_seen_metric = bool(best)


def _rank(keep_best: KeepBest, scores: Scores) -> Scores:
    """Return the best scores. NaN is never one of them, and of equal ones the earlier is better."""
    sign = 1 if keep_best.mode == "min" else -1
    numbers = [(value, step) for value, step in scores if value == value]  # noqa: PLR0124 -- false for NaN alone
    return sorted(numbers, key=lambda score: (sign * score[0], score[1]))[: keep_best.num]
