"""How samples come from the dataset to the device."""

from pydantic import NonNegativeInt

from d9d.core.configuration import Settings


class DataLoadingConfig(Settings):
    """How samples come from the dataset to the device."""

    num_workers: NonNegativeInt = 0
    """How many processes read samples ahead; with 0 the loop reads them itself, when it needs them. What samples draw
    at random is the same for any number of processes, and something else with none. Iterable data comes in another
    order with another number."""
