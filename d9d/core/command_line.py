"""The configuration of a script: files of settings, then the options of the command line."""

import argparse
import difflib
import json
import sys
import tomllib
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from pydantic import ValidationError

from d9d.core.settings import ConfigurationError, Settings

if TYPE_CHECKING:
    import yaml

TSettings = TypeVar("TSettings", bound=Settings)

_Key = tuple[Hashable, ...]

_SUFFIXES = (".yaml", ".yml", ".toml", ".json")

_MISSING_EXTRA = (
    "reading a configuration needs pydantic-settings and PyYAML, and {name} is not installed: run "
    "`pip install 'd9d-hooks[config]'`"
)

# How the help of pydantic-settings says that a group is None by default, that a setting of such a group is required,
# and that a set is empty.
_PLAIN_WORDS = {
    "default: None (undefined)": "",
    "(ifdef: required)": "(required, if any other of its group is set)",
    "(default: frozenset())": "(default: none)",
}


def load_config(kind: type[TSettings], argv: Sequence[str] | None = None) -> TSettings:
    """Make a configuration of the files and options that a script was started with.

    `python train.py --config base.yaml --config small.toml --total-steps 100 --checkpointing.folder runs/x` reads the
    files in this order, and then the options. Groups of settings are merged; of anything else, the last value counts.
    `--help` lists all options with their meaning and default. Relative paths stay as they are written: they start at
    the working directory, not at the folder of the file.

    A mistake ends the script with a message and exit status 2, as `argparse` does. It needs
    `pip install 'd9d-hooks[config]'`.

    Args:
        kind: The class of the configuration, such as `TrainingConfig`, or a subclass of it with further fields.
        argv: The arguments of the script. `None`, the default, takes those of this process.

    Returns:
        The configuration.

    Raises:
        SystemExit: After `--help`, or if an option, a file or a value is wrong.
    """
    parser = _Parser(description=kind.__doc__, allow_abbrev=False)
    try:
        return _load(kind, parser, sys.argv[1:] if argv is None else list(argv))
    except ConfigurationError as error:
        parser.error(str(error))


class _Parser(argparse.ArgumentParser):
    """A parser whose errors refer to `--help`, since a usage line with all settings would fill the terminal."""

    def format_help(self) -> str:
        for item in (*self._actions, *self._action_groups):
            for name in ("help", "description"):
                text = getattr(item, name, None)
                if text is not None:
                    for found, plain in _PLAIN_WORDS.items():
                        text = text.replace(found, plain)
                    setattr(item, name, text)
        return super().format_help()

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {message}\n(see {self.prog} --help)\n")


@dataclass(frozen=True)
class _Source:
    """Settings from one place."""

    values: dict[str, Any]
    name: str
    """The file; empty for the command line."""
    lines: dict[_Key, int] = field(default_factory=dict)

    def place_of(self, key: _Key) -> str:
        """Return where a setting is written."""
        if not self.name:
            return _option_of(key) if key else "the command line"
        return f"{self.name}:{self.lines[key]}" if key in self.lines else self.name

    def has(self, key: _Key) -> bool:
        """Return whether a setting is written here."""
        values: Any = self.values
        for part in key:
            if not isinstance(values, dict) or part not in values:
                return False
            values = values[part]
        return True


def _load(kind: type[TSettings], parser: argparse.ArgumentParser, argv: list[str]) -> TSettings:
    parser.add_argument(
        "--config",
        action="append",
        default=[],
        metavar="FILE",
        help="A file of settings, in YAML, TOML or JSON by its suffix. It can be given several times: later files "
        "override earlier ones, and all other options override the files.",
    )
    options = _add_options(kind, parser)
    parser.usage = f"{parser.prog.replace('%', '%%')} [--config FILE ...] [--SETTING VALUE ...]"
    arguments, unknown = parser.parse_known_args(argv)
    if unknown:
        name = unknown[0].partition("=")[0]
        close = difflib.get_close_matches(name, parser._option_string_actions, n=1)  # noqa: SLF001 -- no public list
        hint = f"; did you mean {close[0]}?" if close else ""
        raise ConfigurationError(f"{name} is no option of this script{hint}")
    paths = [Path(path) for path in arguments.config]
    sources = [_read(path) for path in paths]
    sources.append(_Source(options(parsed_args=arguments)(), name=""))
    merged: dict[str, Any] = {}
    for source in sources:
        _merge(merged, source.values)
    try:
        return kind.model_validate(merged)
    except ValidationError as error:
        lines = list(dict.fromkeys(_describe(problem, merged, sources) for problem in error.errors()))
        raise ConfigurationError("\n  ".join([f"{kind.__name__} is not valid:", *lines])) from error


def _add_options(kind: type[Settings], parser: argparse.ArgumentParser) -> Any:
    """Add an option for each setting, and return the source that reads the parsed arguments."""
    try:
        from pydantic_settings import BaseSettings, CliSettingsSource  # noqa: PLC0415 -- an extra
    except ModuleNotFoundError as error:
        raise ConfigurationError(_MISSING_EXTRA.format(name=error.name)) from error

    class CommandLine(CliSettingsSource[argparse.ArgumentParser]):
        def decode_complex_value(self, field_name: str, field: Any, value: Any) -> Any:
            """Read JSON; anything else is a word such as `auto`, which the group itself accepts or refuses."""
            try:
                return super().decode_complex_value(field_name, field, value)
            except json.JSONDecodeError:
                return value

    return CommandLine(
        type(kind.__name__, (BaseSettings, kind), {"__doc__": kind.__doc__, "__module__": kind.__module__}),
        root_parser=parser,
        cli_parse_none_str="None",
        cli_kebab_case=True,
        cli_hide_none_type=True,
        cli_avoid_json=True,
    )


def _read(path: Path) -> _Source:
    suffix = path.suffix.lower()
    if suffix not in _SUFFIXES:
        raise ConfigurationError(
            f"{path} is not a file of settings: its name must end in one of {', '.join(_SUFFIXES)}"
        )
    lines: dict[_Key, int] = {}
    try:
        text = path.read_text(encoding="utf-8")
        if suffix == ".toml":
            values = tomllib.loads(text)
        elif suffix == ".json":
            values = json.loads(text, object_pairs_hook=_refuse_duplicates)
        else:
            values = _parse_yaml(text, lines)
    except OSError as error:
        raise ConfigurationError(f"cannot read {path}: {error.strerror}") from error
    except ValueError as error:  # of each parser
        raise ConfigurationError(f"cannot read {path}: {error}") from error
    if not isinstance(values, dict):
        raise ConfigurationError(f"{path} holds {values!r}: expected settings by name, such as `total_steps: 100`")
    return _Source(values, str(path), lines)


def _parse_yaml(text: str, lines: dict[_Key, int]) -> Any:
    try:
        import yaml  # noqa: PLC0415 -- an extra
    except ModuleNotFoundError as error:
        raise ConfigurationError(_MISSING_EXTRA.format(name=error.name)) from error
    loader = yaml.SafeLoader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return {}
        lines.update(_lines_of(node, ()))
        return loader.construct_document(node)
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from error
    finally:
        loader.dispose()


def _lines_of(node: "yaml.Node", key: _Key) -> Iterator[tuple[_Key, int]]:
    """Yield each key of a mapping, and of those in it, with its line."""
    names: set[str] = set()
    for name, value in node.value if node.tag == "tag:yaml.org,2002:map" else ():
        if not isinstance(name.value, str):
            continue  # a list or a mapping is no name, which is an error when the document is made
        if name.value in names:
            raise ValueError(f"line {name.start_mark.line + 1} sets {name.value!r} a second time")
        names.add(name.value)
        yield (*key, name.value), name.start_mark.line + 1
        yield from _lines_of(value, (*key, name.value))


def _refuse_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for name, value in pairs:
        if name in values:
            raise ValueError(f"it sets {name!r} a second time")
        values[name] = value
    return values


def _merge(values: dict[str, Any], later: dict[str, Any]) -> None:
    for name, value in later.items():
        if isinstance(value, dict):
            group = values.get(name)
            values[name] = group if isinstance(group, dict) else {}
            _merge(values[name], value)
        else:
            values[name] = value


def _describe(problem: Any, merged: dict[str, Any], sources: list[_Source]) -> str:
    """Return where a mistake is, what it is, and what was found."""
    kind, found = problem["type"], problem["input"]
    key: list[Hashable] = []
    value: Any = merged
    for part in problem["loc"]:  # which also names the member of a union; that is no key
        if isinstance(value, dict) and part in value:
            key.append(part)
            value = value[part]
    if kind == "unknown_field":
        key.append(problem["ctx"]["field"])
    places = [source.place_of(tuple(key)) for source in sources if source.has(tuple(key))]
    if not isinstance(value, dict) or kind in {"unknown_field", "extra_forbidden"}:
        places = places[-1:]
    if kind == "missing":
        key.append(problem["loc"][-1])
        text = f"is required: set it in a file, or with {_option_of(tuple(key))}"
        places = places if len(key) > 1 else []
    elif kind == "extra_forbidden":
        text = "there is no such setting"
    elif kind == "value_error":
        text = str(problem["ctx"]["error"])
    elif kind == "unknown_field":
        text = problem["msg"]
    else:
        text = f"{problem['msg']}; found {found!r}"
    if places == [_option_of(tuple(key))]:
        return f"{places[0]}: {text}"
    return ": ".join(part for part in (", ".join(places), ".".join(map(str, key)), text) if part)


def _option_of(key: _Key) -> str:
    return "--" + ".".join(str(part) for part in key).replace("_", "-")
