from collections.abc import Iterator
from typing import Generic, TypeVar

_T_co = TypeVar("_T_co", covariant=True)

class Dataset(Generic[_T_co]): ...

class DataLoader(Generic[_T_co]):
    def __iter__(self) -> Iterator[_T_co]: ...
