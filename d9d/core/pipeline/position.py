"""Where a stage stands in its pipeline."""

import dataclasses

from d9d.core.configuration import ConfigurationError


@dataclasses.dataclass(frozen=True)
class StagePosition:
    """One of the successive stages that a model is cut into; without a pipeline there is one, the whole model.

    Attributes:
        index: Which stage this is, from 0.
        num_stages: How many there are.
    """

    index: int = 0
    num_stages: int = 1

    @property
    def is_first(self) -> bool:
        """Whether the inputs of the model come to this stage."""
        return self.index == 0

    @property
    def is_last(self) -> bool:
        """Whether this stage returns the outputs of the model."""
        return self.index == self.num_stages - 1

    def layers(self, num_layers: int) -> range:
        """Divide layers evenly; where they do not divide, the first stages have one more.

        Args:
            num_layers: How many layers the whole model has.

        Returns:
            The indices of the layers of this stage.

        Raises:
            ConfigurationError: If there are fewer layers than stages.
        """
        if num_layers < self.num_stages:
            raise ConfigurationError(
                f"the pipeline has {self.num_stages} stages (mesh.pipeline_parallel times the stages of each process, "
                f"pipeline.num_stages_per_process), and the model has {num_layers} layers to divide among them: use "
                f"at most {num_layers} stages, or at least {self.num_stages} layers"
            )
        size, num_larger = divmod(num_layers, self.num_stages)
        start = self.index * size + min(self.index, num_larger)
        return range(start, start + size + (self.index < num_larger))
