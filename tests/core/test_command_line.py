"""A script's configuration is made of files and options, and a mistake in either says where it is."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from d9d import InferenceConfig, LoopConfig, TrainingConfig, load_config

SCRIPT = """
import d9d

class JobConfig(d9d.TrainingConfig):
    \"\"\"The settings of this job.\"\"\"

    width: int = 64
    \"\"\"The number of features, 100% of them.\"\"\"

print(d9d.load_config(JobConfig).model_dump_json())
"""
REQUIRED = ["--total-steps", "3", "--global-batch-size", "4"]


def write(name: str, text: str) -> str:
    """Write a file, and return its path as a script gets it."""
    Path(name).write_text(text, encoding="utf-8")
    return name


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test has an empty working directory, and is a script of this name."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["train.py"])


def refusal(capsys: pytest.CaptureFixture[str], *argv: str, kind: type[LoopConfig] = TrainingConfig) -> str:
    """Return what a script says on stderr that is started with wrong arguments."""
    with pytest.raises(SystemExit) as stop:
        load_config(kind, argv)
    assert stop.value.code == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    return captured.err


def run_script(*argv: str, prelude: str = "") -> subprocess.CompletedProcess[str]:
    write("train.py", prelude + SCRIPT)
    return subprocess.run([sys.executable, "train.py", *argv], capture_output=True, text=True, check=False)


def test_later_files_override_earlier_ones_and_options_override_files() -> None:
    """Groups are merged, setting by setting."""
    base = write("base.yaml", "global_batch_size: 64\ncheckpointing: {folder: runs/base, period_steps: 50}\nseed: 1\n")
    small = write("small.toml", "global_batch_size = 8\n[checkpointing]\nnum_to_keep = 2\nperiod_steps = 20\n")
    last = write("last.json", '{"seed": 2, "max_gradient_norm": null}')

    config = load_config(
        TrainingConfig,
        [
            *["--config", base, "--config", small, "--config", last],
            *["--total-steps", "100", "--checkpointing.folder", "runs/x"],
        ],
    )

    assert config == TrainingConfig.model_validate(
        {
            "global_batch_size": 8,
            "seed": 2,
            "max_gradient_norm": None,
            "total_steps": 100,
            "checkpointing": {"folder": "runs/x", "period_steps": 20, "num_to_keep": 2},
        }
    )


def test_without_arguments_those_of_the_process_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """As `argparse` does."""
    monkeypatch.setattr(sys, "argv", ["train.py", *REQUIRED])

    assert load_config(TrainingConfig) == TrainingConfig(total_steps=3, global_batch_size=4)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--seed=7"], {"seed": 7}),
        (["--max-gradient-norm", "1e-2"], {"max_gradient_norm": 0.01}),
        (["--max-gradient-norm", "None"], {"max_gradient_norm": None}),
        (["--checkpointing", "None"], {}),
        (
            ["--checkpointing.asynchronous", "true", "--checkpointing.folder", "a b"],
            {"checkpointing": {"folder": "a b", "asynchronous": True}},
        ),
        (["--resume.allow", "seed", "--resume.allow", "stopped"], {"resume": {"allow": ["seed", "stopped"]}}),
        (["--source-checkpoint", "a", "--source-checkpoint", "b"], {"source_checkpoint": ["a", "b"]}),
        (["--mesh", "auto"], {"mesh": "auto"}),
        (["--mesh.data-parallel-shard", "auto"], {"mesh": {"data_parallel_shard": "auto"}}),
        (["--device", "cpu", "--reporting.json-lines", "None"], {"device": "cpu", "reporting": {"json_lines": None}}),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_an_option_sets_what_the_setting_of_its_name_does(options: list[str], expected: dict[str, Any]) -> None:
    """Lists are options that are repeated, and `None` is no value."""
    config = load_config(TrainingConfig, [*REQUIRED, *options])

    assert config == TrainingConfig.model_validate({"total_steps": 3, "global_batch_size": 4, **expected})


def test_an_option_drops_a_group_of_a_file() -> None:
    """And a later one starts it again, without what the file had."""
    base = write("base.yaml", "checkpointing: {folder: a, num_to_keep: 7}\nmesh: auto\n")
    later = write("later.yaml", "checkpointing: null\n")
    files = ["--config", base, "--config", later]

    assert load_config(TrainingConfig, [*files[:2], "--checkpointing", "None", *REQUIRED]).checkpointing is None
    dropped = load_config(TrainingConfig, [*files, *REQUIRED, "--checkpointing.folder", "b"]).checkpointing
    assert dropped is not None
    assert (dropped.folder, dropped.num_to_keep) == (Path("b"), 3)


def test_relative_paths_stay_as_they_are_written() -> None:
    """They do not start at the folder of the file."""
    Path("configs").mkdir()
    base = write("configs/base.yaml", "checkpointing: {folder: runs/x}\n")

    config = load_config(TrainingConfig, ["--config", base, *REQUIRED])

    assert config.checkpointing is not None
    assert config.checkpointing.folder == Path("runs/x")


def test_an_empty_file_sets_nothing() -> None:
    """It may have comments only."""
    base = write("base.yaml", "# nothing yet\n")

    assert load_config(InferenceConfig, ["--config", base, "--global-batch-size", "4"]).global_batch_size == 4


WRONG_FILES = [
    (
        "a.yaml",
        "total_steps: 1\n\nseed: many\n",
        "a.yaml:3: seed: Input should be a valid integer, unable to parse string as an integer; found 'many'",
    ),
    ("a.toml", 'precision = "fp8"\n', "a.toml: precision: Input should be 'fp32' or 'bf16-autocast'; found 'fp8'"),
    (
        "a.yaml",
        "data_loading:\n  workers: 1\n",
        "a.yaml:2: data_loading.workers: DataLoadingConfig has no field 'workers'; did you mean 'num_workers'?",
    ),
    (
        "a.json",
        '{"total_step": 1}',
        "a.json: total_step: TrainingConfig has no field 'total_step'; did you mean 'total_steps'?",
    ),
    ("a.yaml", "resume:\n  colour: red\n", "a.yaml:2: resume.colour: there is no such setting"),
    (
        "a.yaml",
        "checkpointing:\n  folder: s3://bucket/run\n",
        "a.yaml:2: checkpointing.folder: 's3://bucket/run' is the address of a remote store",
    ),
    (
        "a.yaml",
        "checkpointing:\n  period_steps: 5\n",
        "a.yaml:1: checkpointing.folder: is required: set it in a file, or with --checkpointing.folder",
    ),
    ("a.yaml", "source_checkpoint: 5\n", "a.yaml:1: source_checkpoint: Input"),
    (
        "a.yaml",
        "micro_batch_size: 3\n",
        "a.yaml, the command line: global_batch_size=4 cannot be divided into micro-batches",
    ),
    ("a.yaml", "seed: 1\nseed: 2\n", "cannot read a.yaml: line 2 sets 'seed' a second time"),
    ("a.json", '{"seed": 1, "seed": 2}', "cannot read a.json: it sets 'seed' a second time"),
    ("a.toml", "seed = 1\nseed = 2\n", "cannot read a.toml: Cannot overwrite a value (at line 2"),
    ("a.yaml", "[1]: 2\n", "cannot read a.yaml: while constructing a mapping"),
    ("a.yaml", "seed: [1\n", "cannot read a.yaml: while parsing a flow sequence"),
    ("a.json", "{", "cannot read a.json: Expecting property name enclosed in double quotes: line 1"),
    ("a.yaml", "- 1\n", "a.yaml holds [1]: expected settings by name"),
    ("a.py", "seed = 1\n", "a.py is not a file of settings: its name must end in one of .yaml, .yml, .toml, .json"),
]


@pytest.mark.parametrize(("name", "text", "message"), WRONG_FILES)
def test_a_mistake_in_a_file_says_where_what_was_found_and_what_is_expected(
    name: str, text: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """With the line, if the file is YAML."""
    assert message in refusal(capsys, "--config", write(name, text), *REQUIRED)


WRONG_OPTIONS = [
    (["--totl-steps", "3"], "train.py: error: --totl-steps is no option of this script; did you mean --total-steps?"),
    (["--total", "3"], "--total is no option of this script"),
    (["positional"], "positional is no option of this script"),
    (["--config", "absent.yaml"], "cannot read absent.yaml: No such file or directory"),
    (["--config"], "argument --config: expected one argument"),
    ([*REQUIRED, "--seed", "-1"], "\n  --seed: Input should be greater than or equal to 0; found '-1'"),
    (
        [*REQUIRED, "--mesh", "all"],
        "\n  --mesh: 'all' is no mesh: use 'auto' for all processes that were started, or the sizes",
    ),
    (["--total-steps", "3"], "\n  global_batch_size: is required: set it in a file, or with --global-batch-size"),
]


@pytest.mark.parametrize(("options", "message"), WRONG_OPTIONS)
def test_a_wrong_option_says_what_was_found_and_what_is_expected(
    options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """And ends the script as `argparse` does."""
    assert message in refusal(capsys, *options)


def test_the_source_that_counts_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    """Of two files that set a value, the second one; all mistakes are shown together."""
    first, second = write("first.yaml", "seed: -1\ntotal_steps: 0\n"), write("second.yaml", "\nseed: -2\n")

    lines = refusal(capsys, "--config", first, "--config", second, "--global-batch-size", "4").splitlines()

    assert lines == [
        "train.py: error: TrainingConfig is not valid:",
        "  second.yaml:2: seed: Input should be greater than or equal to 0; found -2",
        "  first.yaml:2: total_steps: Input should be greater than 0; found 0",
        "(see train.py --help)",
    ]


def test_settings_of_training_are_refused_in_inference(capsys: pytest.CaptureFixture[str]) -> None:
    """In the words of the configuration itself."""
    text = refusal(
        capsys,
        *["--global-batch-size", "4", "--checkpointing.folder", "a", "--checkpointing.period-epochs", "1"],
        kind=InferenceConfig,
    )

    assert "checkpointing.period_epochs is set, and inference reads its data once" in text


def test_the_help_of_a_script_describes_all_settings() -> None:
    """Those of its own as well, each with its default; nothing else is printed."""
    run = run_script("--help")

    text = " ".join(run.stdout.split())
    assert (run.returncode, run.stderr) == (0, "")
    assert text.startswith("usage: train.py [--config FILE ...] [--SETTING VALUE ...] The settings of this job.")
    assert "--width int The number of features, 100% of them. (default: 64)" in text
    assert "--total-steps int The number of optimizer steps in the run. (required)" in text
    assert "in minutes on the clock of the main process" in text
    assert "--resume.mode {auto,never,must}" in text
    assert "ifdef" not in text
    assert "undefined" not in text
    described = set(described_fields(TrainingConfig))
    assert len(described) > 40
    assert {
        name for name, words in described if f"--{name.replace('_', '-')} " not in text or words not in text
    } == set()


def described_fields(kind: Any, prefix: str = "") -> list[tuple[str, str]]:
    """Return the dotted name and the description of each setting that is no group."""
    found: list[tuple[str, str]] = []
    for name, field in kind.model_fields.items():
        types = [field.annotation, *getattr(field.annotation, "__args__", ())]
        groups = [one for one in types if hasattr(one, "model_fields")]
        if groups:
            found += described_fields(groups[0], f"{prefix}{name}.")
        else:
            found.append((prefix + name, " ".join(field.description.split())))
    return found


def test_a_script_reads_files_and_options() -> None:
    """In a process of its own, with a setting of its own."""
    base = write("base.yaml", "width: 8\nglobal_batch_size: 4\n")

    run = run_script("--config", base, "--total-steps", "3")

    assert run.returncode == 0, run.stderr
    assert json.loads(run.stdout)["width"] == 8


@pytest.mark.parametrize("module", ["pydantic_settings", "yaml"])
def test_an_absent_extra_is_named_with_the_command_that_installs_it(module: str) -> None:
    """In one line, and no traceback."""
    base = write("base.yaml", "width: 8\n")

    run = run_script("--config", base, *REQUIRED, prelude=f"import sys; sys.modules[{module!r}] = None\n")

    assert run.returncode == 2
    assert f"{module} is not installed: run `pip install 'd9d-hooks[config]'`" in run.stderr
    assert "Traceback" not in run.stderr


def test_a_configuration_loads_neither_parser_unless_files_or_options_are_read() -> None:
    """`pydantic_settings` and `yaml` are an extra."""
    program = (
        "import sys, d9d; d9d.TrainingConfig, d9d.load_config; print({'yaml', 'pydantic_settings'} & {*sys.modules})"
    )

    run = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)

    assert run.stdout == "set()\n"


def optional(values: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.none() | values


NAMES = st.text(st.characters(codec="utf-8", exclude_characters="\0", exclude_categories=["Cs"]), min_size=1)
PATHS = NAMES.map(lambda name: f"runs/{name}").filter(lambda path: str(Path(path)) == path)
SIZES = st.integers(1, 10**6)
SECONDS = st.floats(1e-3, 1e9)
CONFIGS = st.fixed_dictionaries(
    {"total_steps": SIZES, "global_batch_size": SIZES},
    optional={
        "device": optional(NAMES),
        "precision": st.sampled_from(["fp32", "bf16-autocast"]),
        "seed": st.integers(0, 2**63 - 1),
        "source_checkpoint": optional(PATHS | st.lists(PATHS, min_size=1).map(tuple)),
        "max_gradient_norm": optional(SECONDS),
        "timeouts": st.fixed_dictionaries({}, optional={"step_seconds": SECONDS}),
        "checkpointing": optional(
            st.fixed_dictionaries(
                {"folder": PATHS},
                optional={
                    "period_minutes": optional(SECONDS),
                    "period_steps": optional(SIZES),
                    "asynchronous": st.booleans(),
                },
            )
        ),
        "resume": st.fixed_dictionaries(
            {},
            optional={"allow": st.frozensets(st.sampled_from(["global_batch_size", "num_samples", "seed", "stopped"]))},
        ),
        "reporting": st.fixed_dictionaries(
            {}, optional={"json_lines": optional(PATHS), "progress_bar": optional(st.booleans())}
        ),
    },
).map(TrainingConfig.model_validate)


@settings(deadline=None)
@given(config=CONFIGS, suffix=st.sampled_from(["json", "yaml"]))
def test_a_configuration_that_is_written_to_a_file_is_read_back(
    config: TrainingConfig, suffix: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """The very same, in JSON and in YAML."""
    dumped = config.model_dump_json() if suffix == "json" else yaml.safe_dump(config.model_dump(mode="json"))
    path = tmp_path_factory.getbasetemp() / f"dumped.{suffix}"
    path.write_text(dumped, encoding="utf-8")

    assert load_config(TrainingConfig, ["--config", str(path)]) == config
