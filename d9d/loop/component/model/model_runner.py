"""How the model is run over the micro-batches of a step."""

import abc
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeAlias

import torch
from torch import nn

from d9d.loop.component.gradient.gradient_synchronizer import GradientSynchronizer
from d9d.loop.component.model.model_inputs import ModelInputs
from d9d.loop.component.model.precision import ForwardPrecision

ComputeLoss: TypeAlias = Callable[[Any, Any], torch.Tensor]
"""Turns the outputs of the model, and the micro-batch, into its share of the loss of the step, a scalar."""

UseOutputs: TypeAlias = Callable[[int, Any, Any], None]
"""Takes the number of a micro-batch in the step, itself, and the outputs of the model."""


class ModelRunner(abc.ABC):
    """Runs the model over the micro-batches of a step."""

    @abc.abstractmethod
    def forward_backward(self, batches: Iterable[Any], compute_loss: ComputeLoss) -> None:
        """Run forward and backward passes, which leave gradients behind.

        Args:
            batches: The micro-batches of the step, each on the device by the time it is taken.
            compute_loss: Called where the outputs of the model are, once for each micro-batch.
        """

    @abc.abstractmethod
    def forward(self, batches: Iterable[Any], num_samples: Sequence[int], use_outputs: UseOutputs) -> None:
        """Run forward passes alone.

        Args:
            batches: The micro-batches of the step, each on the device by the time it is taken.
            num_samples: How many samples each of them has.
            use_outputs: Called where the outputs of the model are, once for each micro-batch.
        """


class WholeModelRunner(ModelRunner):
    """Runs a model that is not cut into stages, one micro-batch after the other.

    Args:
        model: The model.
        inputs: Chooses its inputs.
        precision: The number format of forward passes and losses.
        num_micro_batches: How many micro-batches a step of training has.
    """

    def __init__(
        self, model: nn.Module, inputs: ModelInputs, precision: ForwardPrecision, num_micro_batches: int
    ) -> None:
        self._model = model
        self._num_micro_batches = num_micro_batches
        self._inputs = inputs
        self._precision = precision
        self._synchronizer = GradientSynchronizer([model])

    def forward_backward(self, batches: Iterable[Any], compute_loss: ComputeLoss) -> None:  # noqa: D102 -- inherited
        for number, batch in enumerate(batches, start=1):
            self._synchronizer.start_micro_batch(is_last=number == self._num_micro_batches)
            with self._precision.context():
                loss = compute_loss(self._run(batch), batch)
            torch.autograd.backward(loss)

    def forward(  # noqa: D102 -- inherited
        self, batches: Iterable[Any], num_samples: Sequence[int], use_outputs: UseOutputs
    ) -> None:
        del num_samples
        for number, batch in enumerate(batches):
            with self._precision.context():
                outputs = self._run(batch)
            use_outputs(number, batch, outputs)
            del outputs  # or they would lie beside those of the next micro-batch

    def _run(self, batch: Any) -> Any:
        built = self._inputs.build(batch)
        return self._model(**built.inputs, **built.shared_inputs)
