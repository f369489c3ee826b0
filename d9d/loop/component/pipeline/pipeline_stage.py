"""A stage of torch's pipelines that takes its micro-batches from the loop."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import distributed
from torch.distributed.pipelining import PipelineStage

from d9d.loop.component.model.model_builder import ModelStage
from d9d.loop.component.model.precision import ForwardPrecision
from d9d.loop.component.pipeline.activation_shapes import Shapes, as_tuple, shapes_of
from d9d.loop.component.tensor_tree import list_tensors
from d9d.loop.control import BuildForwardInputsResult


class LoopStage(PipelineStage):
    """Runs one stage of the model.

    torch cuts one large batch into micro-batches and knows them by their number alone. The loop has micro-batches
    already, of any structure; so nothing is handed to torch, and the stage looks up its inputs by that number.

    Args:
        stage: The stage of the model.
        received: The shapes of what it receives from the stage before it.
        sent: The shapes of what it sends to the one after it.
        traveling_dtype: The number format of floating numbers on their way; `None` keeps that of the stages.
        is_training: Whether there will be backward passes.
        precision: The number format of forward passes.
        device: Where it runs.
        group: The processes of this pipeline.
    """

    inputs: Sequence[BuildForwardInputsResult] = ()
    """The inputs of the model for each micro-batch of the step that runs."""

    use_outputs: Callable[[int, Any], None] | None = None
    """Takes what the last stage returns for each micro-batch."""

    def __init__(
        self,
        stage: ModelStage,
        *,
        received: Shapes,
        sent: Shapes,
        traveling_dtype: torch.dtype | None,
        is_training: bool,
        precision: ForwardPrecision,
        device: torch.device,
        group: distributed.ProcessGroup,
    ) -> None:
        # With the shapes given torch does not run the model once more to find them out, which would count twice.
        super().__init__(
            stage.module,
            stage.position.index,
            stage.position.num_stages,
            device,
            input_args=_examples(received, traveling_dtype, is_training=is_training),
            output_args=_examples(sent, traveling_dtype, is_training=is_training),
            group=group,
        )
        self._received = received
        self._sent = sent
        self._traveling_dtype = traveling_dtype
        self._precision = precision
        self._outputs: Any = None
        self._failure: Exception | None = None

    def forward_one_chunk(  # noqa: D102 -- inherited
        self,
        fwd_chunk_id: int,
        args: Any,
        kwargs: Any = None,
        save_forward_output: bool = True,  # noqa: FBT001, FBT002 -- as torch passes it
    ) -> Any:
        del args, kwargs, save_forward_output
        built = self.inputs[fwd_chunk_id]
        keywords = {**(built.inputs if self.is_first else {}), **built.shared_inputs}
        try:
            sent = super().forward_one_chunk(fwd_chunk_id, (), keywords, save_forward_output=False)
        except RuntimeError:
            # torch wraps whatever the model raises; the user sees what was raised.
            if self._failure is not None:
                raise self._failure from None
            raise
        if not self.is_last:
            return sent
        outputs, self._outputs = self._outputs, None
        if self.use_outputs is not None:
            self.use_outputs(fwd_chunk_id, outputs)
        return outputs

    def forward_maybe_with_nosync(self, *args: Any, **kwargs: Any) -> Any:  # noqa: D102 -- inherited
        own = [tensor.to(dtype) for tensor, (_, dtype) in zip(args, self._received, strict=True)]
        try:
            with self._precision.context():
                outputs = super().forward_maybe_with_nosync(*own, **kwargs)  # type: ignore[no-untyped-call]
                if not self.is_last:
                    return self._checked(as_tuple(outputs))
                # torch keeps what is returned here, and takes it for tensors.
                self._outputs = outputs
                return tuple(list_tensors(outputs))
        except Exception as error:
            self._failure = error
            raise

    def get_fwd_send_ops(self, fwd_chunk_id: int) -> list[distributed.P2POp]:
        """Send nothing after the last stage, whose outputs can be of any kind."""
        return [] if self.is_last else super().get_fwd_send_ops(fwd_chunk_id)

    def get_local_bwd_output(self, mb_index: int) -> Any:
        """Return nothing in a step without backward passes, where torch asks none the less."""
        return super().get_local_bwd_output(mb_index) if self.has_backward else ()  # type: ignore[no-untyped-call]

    def set_local_bwd_input(self, next_stage_bwd_outputs: Any, mb_index: int) -> None:
        """Do nothing in a step without backward passes."""
        if self.has_backward:
            super().set_local_bwd_input(next_stage_bwd_outputs, mb_index)

    def perform_reduce_grad(self, grad_scale_factor: int) -> None:
        """Do nothing in a step without backward passes."""
        if self.has_backward:
            super().perform_reduce_grad(grad_scale_factor)

    def _checked(self, outputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        """Bring activations into the shape that the next stage has made room for."""
        found = tuple(shape for shape, _ in shapes_of(outputs))
        expected = tuple(shape for shape, _ in self._sent)
        if found != expected:
            raise RuntimeError(
                f"stage {self.stage_index} of the pipeline returned tensors of the shapes {found}, and for these "
                f"inputs it was to return {expected}, by its shapes on the device 'meta': let the shapes of its "
                "outputs depend on the shapes of its inputs alone"
            )
        return tuple(
            _as_source(tensor.to(_on_the_way(dtype, self._traveling_dtype)).contiguous(), is_training=self.has_backward)
            for tensor, (_, dtype) in zip(outputs, self._sent, strict=True)
        )


def _as_source(activation: torch.Tensor, *, is_training: bool) -> torch.Tensor:
    """Have gradients come to an activation also where nothing before it wants any: the next stage sends them."""
    if is_training and activation.is_floating_point() and not activation.requires_grad:
        return activation.detach().requires_grad_()
    return activation


def _on_the_way(dtype: torch.dtype, traveling_dtype: torch.dtype | None) -> torch.dtype:
    return traveling_dtype if traveling_dtype is not None and dtype.is_floating_point else dtype


def _examples(shapes: Shapes, traveling_dtype: torch.dtype | None, *, is_training: bool) -> tuple[torch.Tensor, ...]:
    return tuple(
        torch.empty(
            shape,
            dtype=_on_the_way(dtype, traveling_dtype),
            device="meta",
            requires_grad=is_training and dtype.is_floating_point,
        )
        for shape, dtype in shapes
    )
