"""`check --import`: the generated modules are imported, and compared with the catalogue, at its positions."""

import json

import pytest

from .workspace import SMALL, Workspace, rules

FIELD = "          step: {type: int, doc: The step's index.}\n"


def with_type(expression: str, **others: str) -> str:
    """Return a catalogue with a field of a type after the first one, and more fields after that."""
    fields = {"money": expression, **others}
    lines = [f'          {name}: {{type: "{each}", doc: It is so.}}\n' for name, each in fields.items()]
    return SMALL.replace(FIELD, FIELD + "".join(lines))


def imported(small: Workspace, catalogue: str, till: str) -> tuple[int, str]:
    """Generate a catalogue whose types are in a module `till`, and return the outcome of `check --import`."""
    small.write(till, "till.py")
    small.write(catalogue)
    assert small.run("generate")[0] == 0
    assert small.run("check")[0] == 0
    return small.run("check", "--import")


def test_modules_that_are_as_declared_pass(small: Workspace) -> None:
    """Types of every kind, those of contexts among them, are the declared ones after the import."""
    catalogue = with_type(
        "till.Money | None",
        later="list[EventLaterContext]",
        value="typing.Literal['a', 1] | None",
        nothing="None",
        call="collections.abc.Callable[..., typing.Any]",
        note="typing.Annotated[int, 'metres']",
    ).replace("  sale:", "      EventLaterContext: {doc: A later one.}\n  sale:")
    status, output = imported(small, catalogue, "print('imported')\n\n\nclass Money: ...\n")
    assert (status, output) == (0, "all 7 files are up to date with catalogue.yaml; 3 contexts imported as declared\n")


def test_a_module_that_cannot_be_imported_is_reported_at_the_type_that_needs_it(small: Workspace) -> None:
    """The line of the import in the generated module leads to the first mention in the catalogue."""
    status, output = imported(
        small, with_type("list[till.Money]"), "raise ImportError('no till')\n\n\nclass Money: ...\n"
    )
    assert (status, output.splitlines()[0]) == (
        1,
        (
            "catalogue.yaml:11:31: error[import-error]: "
            "the module shop.events.common cannot be imported: ImportError: no till"
        ),
    )


@pytest.mark.parametrize(
    ("till", "message"),
    [
        (
            "import typing\n\nglobals()['Money'] = typing.ClassVar\n",
            (
                "11:25: error[import-difference]: "
                "field money of context EventStepContext does not exist in the imported module"
            ),
        ),
        (
            "def __getattr__(name):\n    return type(name, (), {})\n",
            (
                "11:25: error[import-difference]: field money of context EventStepContext "
                "has the type <class 'till.Money'> in the imported module, not <class 'till.Money'>"
            ),
        ),
        (
            "globals()['Money'] = 'no.such.name'\n",
            (
                "7:7: error[import-difference]: context EventStepContext has types that cannot be resolved: "
                "NameError: name 'no' is not defined"
            ),
        ),
    ],
    ids=["lost", "another", "unresolved"],
)
def test_a_field_that_is_not_as_declared_is_reported_at_its_type(small: Workspace, till: str, message: str) -> None:
    """What no look at the source can know shows after the import."""
    status, output = imported(small, with_type("till.Money"), till)
    assert (status, output.splitlines()[0]) == (1, f"catalogue.yaml:{message}".replace("of context ", "of "))


def test_a_module_of_a_template_that_leaves_out_a_field_is_found(small: Workspace) -> None:
    """Whatever made the module, it has to have the declared fields, and no others."""
    small.write(
        "# {{ notice }}\nimport dataclasses\n{% for context in module.contexts %}\n@dataclasses.dataclass\n"
        "class {{ context.name }}:\n    more: int = 0\n{% endfor %}\n",
        "mine/module.py.jinja",
    )
    small.write('[tool.d9d]\ntemplates = "mine"\n', "pyproject.toml")
    assert small.run("generate")[0] == 0
    status, output = small.run("check", "--import", "--format", "json")
    assert status == 1
    assert [each["message"] for each in json.loads(output)] == [
        "context EventStepContext has a field more in the imported module",
        "field step of EventStepContext does not exist in the imported module",
        "context EventDayContext has a field more in the imported module",
    ]


@pytest.mark.parametrize("number", [0, 3])
def test_a_module_that_ends_the_process_is_reported(small: Workspace, number: int) -> None:
    """With the status, and what was printed."""
    till = f"import os, sys\n\nprint('out', file=sys.stderr, flush=True)\nos._exit({number})\n\n\nclass Money: ...\n"
    status, output = imported(small, with_type("till.Money"), till)
    assert (status, output) == (
        1,
        (
            "catalogue.yaml: error[import-error]: "
            f"importing the generated modules ended the process with status {number}\n"
            "out\n   a module that they import ends the process: remove what does so, such as a call of `sys.exit`\n"
        ),
    )


def test_stale_modules_are_not_imported(small: Workspace) -> None:
    """They are reported first."""
    small.run("generate")
    small.write(with_type("till.Money"))
    small.write("raise SystemExit('imported')\n\n\nclass Money: ...\n", "till.py")
    status, output = small.run("check", "--import")
    assert (status, {rule.rpartition(" ")[2] for rule in rules(output)}) == (1, {"error[stale]"})


def test_modules_below_src_are_imported_from_there(small: Workspace) -> None:
    """As a type checker finds them."""
    small.write("class Money: ...\n", "src/till.py")
    small.write(with_type("till.Money"))
    assert small.run("generate")[0] == 0
    assert (small.root / "src/shop/events/common.py").is_file()
    assert small.run("check", "--import")[0] == 0
