"""The names of weights, which must tell them apart over all stages of a pipeline."""

from collections.abc import Sequence

from d9d.core.configuration import ConfigurationError
from d9d.loop.component.model.model_builder import ModelStage
from d9d.loop.component.ranks import Ranks


def require_own_names(stages: Sequence[ModelStage], ranks: Ranks) -> None:
    """Refuse two stages that name a weight alike.

    Args:
        stages: The stages of this process.
        ranks: All processes, which call this together.

    Raises:
        ConfigurationError: On all processes, if any two stages of the model do.
    """
    own = [(stage.position.index, [name for name, _ in stage.module.named_parameters()]) for stage in stages]
    owners: dict[str, int] = {}
    for index, names in (each for of_rank in ranks.gather(own) for each in of_rank):
        for name in names:
            owner = owners.setdefault(name, index)
            if owner != index:
                raise ConfigurationError(
                    f"stages {owner} and {index} of the pipeline have a weight of the name {name!r}: name the layers "
                    "of a stage by their index in the whole model, for instance in a torch.nn.ModuleDict, so that "
                    "weights are found again when the model is cut otherwise"
                )
