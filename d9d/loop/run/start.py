"""How every run starts: who listens, where it runs, and where its random numbers begin."""

import datetime as dt

from torch import nn

from d9d.core.dist_context import DistributedContext
from d9d.core.seed import derive_seed
from d9d.loop.component.checkpoint.checkpoint_folder import prepare_folder
from d9d.loop.component.random_state import RandomState
from d9d.loop.config import ConfigurationError, LoopConfig
from d9d.loop.control import BaseTask, ModelProvider, RegisterModelEventsContext, RegisterTaskEventsContext
from d9d.loop.event import EventBus


def start_run(
    bus: EventBus, config: LoopConfig, task: BaseTask, model_provider: ModelProvider
) -> tuple[DistributedContext, RandomState]:
    """Have everyone subscribe, and initialise the process.

    Args:
        bus: The bus of the run, before its first event.
        config: Names the device, the seed and the folder of checkpoints.
        task: Subscribes first.
        model_provider: Subscribes second.

    Returns:
        The process, and its random number generators, which are seeded.

    Raises:
        ConfigurationError: If the task cannot be one, or checkpoints could not be written.
        RuntimeError: If the device is not there.
    """
    if isinstance(task, nn.Module):
        raise ConfigurationError(
            f"the task, a {type(task).__qualname__}, is a torch module as well, and its weights would be neither moved "
            "nor trained: put them into the model, or keep the module in an attribute"
        )
    if config.checkpointing is not None:
        prepare_folder(config.checkpointing.folder)
    task.register_events(RegisterTaskEventsContext(event_bus=bus))
    model_provider.register_events(RegisterModelEventsContext(event_bus=bus))
    dist_context = DistributedContext.start(
        config.device, config.mesh, dt.timedelta(seconds=config.timeouts.start_seconds)
    )
    random_state = RandomState(dist_context.device)
    random_state.seed(config.seed)
    return dist_context, random_state


def seed_apart(random_state: RandomState, config: LoopConfig, dist_context: DistributedContext) -> None:
    """Have processes with other samples or other layers draw other random numbers from here on.

    Until then all draw the same, so that they make the same data and the same weights. Processes that divide matrices
    keep the same, since they have the same activations.

    Args:
        random_state: The random number generators of this process.
        config: Holds the seed.
        dist_context: Says which process this is. A process alone goes on from where it is.
    """
    if dist_context.world_size > 1:
        place = dist_context.mesh_for("loss").get_local_rank("loss")
        random_state.seed(derive_seed(config.seed, "process", place))
