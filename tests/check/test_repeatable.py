"""The checker follows a program in the same order in each run, so what it finds is the same."""

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAMS = Path(__file__).parent / "programs"
RECORD = """
import sys
from pathlib import Path
from d9d_check.check import check
from d9d_check.interpret import Interpreter

follow = Interpreter.call_function

def record(self, function, *arguments):
    print(function.definition.module, function.definition.path, arguments[-1])
    return follow(self, function, *arguments)

Interpreter.call_function = record
for finding in check([Path(sys.argv[1])], use_cache=False).diagnostics:
    print(finding.path, finding.line, finding.code, finding.message)
"""


def followed(seed: int, folder: Path) -> str:
    """Return the digest of all calls that are followed, and of what is found, with a seed of Python's hashes."""
    environment = {**os.environ, "PYTHONHASHSEED": str(seed)}
    run = [sys.executable, "-c", RECORD, str(folder)]
    output = subprocess.run(run, env=environment, capture_output=True, check=True).stdout
    assert output.count(b"\n") > 1000, "nothing was followed"
    return hashlib.sha256(output).hexdigest()


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder outside this project, all of which would be followed too."""
    return Path(shutil.copytree(PROGRAMS, tmp_path_factory.mktemp("repeatable") / "programs"))


@pytest.fixture(scope="module")
def expected(programs: Path) -> str:
    return followed(0, programs)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_the_order_of_calls_does_not_depend_on_the_seed_of_hashes(seed: int, expected: str, programs: Path) -> None:
    """Python orders a set of strings in another way in each process, and one of objects by their addresses."""
    assert followed(seed, programs) == expected
