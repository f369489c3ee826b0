"""Test the oldest and the newest supported version of each dependency: `make test-matrix`.

    python .ci/matrix.py                       # all jobs; versions that cannot be installed here are reported as such
    python .ci/matrix.py mypy-floor torch-newest   # these jobs; a version that cannot be installed is a failure
    python .ci/matrix.py --list                # the jobs, with the requirements and tests of each

The bounds are read from pyproject.toml. Each job makes an environment in `.venv-matrix`. There, the packages of the job
have the version under test, and all others the version in constraints.txt.
"""

import argparse
import dataclasses
import itertools
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Literal

ROOT = Path(__file__).parents[1]
ENVIRONMENTS = ROOT / ".venv-matrix"
# Which tests a package can break. Packages of one line are tested together: none of them has shown to need more.
TESTS = {
    ("torch",): "tests/core tests/loop tests/distributed tests/examples",
    ("mypy",): "tests/mypy tests/typing tests/codegen/test_typecheck.py",
    (
        "pydantic",
        "numpy",
        "tqdm",
        "safetensors",
        "tensorboard",
        "torchdata",
        "pydantic-settings",
    ): "tests/core tests/loop",
    ("jinja2", "pyyaml"): "tests/codegen",
}
# Pages that name the versions in constraints.txt.
PAGES = ["tests/typing/test_checker_page.py::test_the_committed_page_shows_what_the_checkers_report"]


@dataclasses.dataclass(frozen=True)
class Job:
    """One environment, and what is tested in it.

    Attributes:
        name: What the command line calls it.
        requirements: The packages under test, each with its version or its range.
        tests: What pytest is called with.
    """

    name: str
    requirements: list[str]
    tests: list[str]


def jobs() -> dict[str, Job]:
    """Return all jobs, by name."""
    ranges = _ranges()
    found: dict[str, Job] = {}
    for packages, tests in TESTS.items():
        for end in ("floor", "newest"):
            requirements = [_requirement(package, ranges[package], end) for package in packages]
            name = f"{packages[0]}-{end}"
            found[name] = Job(name, requirements, tests.split())
    return found


def _requirement(package: str, versions: str, end: Literal["floor", "newest"]) -> str:
    if end == "newest":
        return package + versions
    floor = re.search(r">=([\d.]+)", versions)
    if floor is None:
        raise SystemExit(f"pyproject.toml names no oldest version of {package}: found {versions!r}, expected '>=...'")
    return f"{package}=={floor[1]}"


def _ranges() -> dict[str, str]:
    """Return the range of versions of each dependency, those of extras included."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    named = itertools.chain(project["dependencies"], *project["optional-dependencies"].values())
    split = (re.fullmatch(r"([\w-]+)(?:\[[^]]*\])?(.*)", requirement) for requirement in named)
    return {match[1]: match[2] for match in split if match is not None}


def run(job: Job) -> Literal["passed", "failed", "not available"]:
    """Install what the job needs, and run its tests."""
    print(f"== {job.name}: {', '.join(job.requirements)}", flush=True)
    folder = ENVIRONMENTS / job.name
    python = str(folder / "bin" / "python")
    subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True)
    under_test = {re.split(r"[=<>]", requirement)[0] for requirement in job.requirements}
    constraints = folder / "constraints.txt"
    pinned = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines(keepends=True)
    constraints.write_text("".join(line for line in pinned if line.partition("==")[0] not in under_test), "utf-8")
    pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--constraint", str(constraints)]
    installed = subprocess.run(
        [*pip, *job.requirements, "--editable", ".[dev]"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if installed.returncode:
        print(installed.stderr.strip())
        print(f"{job.name}: these versions cannot be installed here", flush=True)
        return "not available"
    tests = [python, "-m", "pytest", "--quiet", "--numprocesses", "2", "-m", "not slow", *job.tests]
    tests += [f"--deselect={page}" for page in PAGES]
    return "failed" if subprocess.run(tests, cwd=ROOT, check=False).returncode else "passed"


def main() -> int:
    """Run the jobs that the command line names.

    Returns:
        The exit status: 1 if tests failed, or if a job that was named could not be installed.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("jobs", nargs="*", metavar="JOB", help="a job that --list names; by default all of them")
    parser.add_argument("--list", action="store_true", help="list the jobs and run none")
    options = parser.parse_args()
    known = jobs()
    if unknown := set(options.jobs) - known.keys():
        parser.error(f"there is no job {', '.join(sorted(unknown))}: the jobs are {', '.join(known)}")
    if options.list:
        for job in known.values():
            print(f"{job.name:16} {', '.join(job.requirements)}\n{'':16} {' '.join(job.tests)}")
        return 0
    results = {name: run(known[name]) for name in options.jobs or known}
    print("\n".join(f"{name:16} {result}" for name, result in results.items()))
    bad = {"failed", "not available"} if options.jobs else {"failed"}
    return 1 if bad & set(results.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
