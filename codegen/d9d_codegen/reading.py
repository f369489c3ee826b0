"""A catalogue that is being read, together with the others of its project."""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from d9d_codegen.load import load, read
from d9d_codegen.model import Catalogue
from d9d_codegen.problem import Problems, RefusedError
from d9d_codegen.project import find_project
from d9d_codegen.surroundings import Surroundings


class Reading:
    """A catalogue as far as it can be read.

    Attributes:
        path: The catalogue's path, as the user named it.
        problems: What is wrong with it.
        catalogue: Its model; nothing where the text is no readable YAML.
    """

    def __init__(self, path: Path) -> None:
        """Read the catalogue.

        Raises:
            RefusedError: There is no text to read.
        """
        source = read(path)
        self.path = path
        self.problems = Problems(source)
        self.catalogue = load(source, self.problems)

    def surrounded(self, readings: Mapping[Path, "Reading"]) -> Catalogue | None:
        """Return the model with what lies around it.

        Args:
            readings: The catalogues that are read already, by their paths.

        Raises:
            RefusedError: The project cannot be read.
        """
        if self.catalogue is None:
            return None
        project = find_project(self.path)
        neighbours, earlier, is_past = [], [], False
        for path in project.catalogues:
            if path.absolute() == self.path.absolute():
                is_past = True
                continue
            neighbour = _model(path, readings)
            if neighbour is not None:
                neighbours.append(neighbour.as_neighbour)
                earlier += [] if is_past else [neighbour.as_neighbour]
        around = Surroundings(project.root, self.catalogue.package, neighbours, earlier)
        return replace(self.catalogue, surroundings=around)


def _model(path: Path, readings: Mapping[Path, Reading]) -> Catalogue | None:
    """Return another catalogue of the project; nothing where it cannot be read, which is told when it is examined."""
    if path in readings:
        return readings[path].catalogue
    with suppress(RefusedError):
        return Reading(path).catalogue
    return None
