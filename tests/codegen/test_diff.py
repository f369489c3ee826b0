"""`diff`: each change between two versions of a catalogue, whom it breaks, and its positions in both."""

import json
import shutil
import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from d9d_codegen.diff.change import KINDS
from d9d_codegen.diff.compare import moved
from d9d_codegen.diff.widening import Relation, relation

from .workspace import SMALL, Workspace

HANDLERS, TRIGGERS = "breaking for handlers", "breaking for triggers"
BOTH, LIFECYCLE, COMPATIBLE = "breaking for handlers and triggers", "lifecycle", "compatible"
STEP = "step: {type: int, doc: The step's index.}"
CUSTOMER_POST = """\
      EVENT_SALE_CUSTOMER_POST:
        id: sale.customer.post
        phase: serving
        context: EventStepContext
        doc: Triggered when a customer leaves.
"""
PAID = CUSTOMER_POST.replace("CUSTOMER_POST", "PAID").replace("customer.post", "paid")
CLOSED = SMALL[SMALL.index("      EVENT_SALE_CLOSED") :]
EXPERIMENTAL = SMALL.replace("doc: Context of a step.", "doc: Context of a step.\n        stability: experimental")
DEPRECATED_CLOSED = SMALL + '        deprecated: {since: "0.2"}\n'
ALIAS = 'deprecated: {since: "0.2", replaced_by: '


def changes(workspace: Workspace, old: str, new: str) -> tuple[int, list[tuple[str, str, str]]]:
    """Compare two catalogues; return the exit status and each change's kind, class and severity."""
    workspace.write(old, "old.yaml")
    workspace.write(new, "new.yaml")
    status, output = workspace.run("diff", "old.yaml", "new.yaml", "--format", "json")
    return status, [(change["kind"], change["class"], change["severity"]) for change in json.loads(output)]


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        (CLOSED, "", ("event-removed", HANDLERS, "error")),
        ("EVENT_SALE_CLOSED:", "EVENT_SALE_SHUT:", ("constant-renamed", HANDLERS, "error")),
        ("id: sale.closed", "id: sale.shut", ("id-changed", HANDLERS, "error")),
        ("          " + STEP, "          {}", ("field-removed", HANDLERS, "error")),
        ("type: int", "type: int | None", ("type-widened", HANDLERS, "error")),
        ("type: int", "type: typing.Any", ("type-widened", HANDLERS, "error")),
        ("type: int", "type: bool", ("type-narrowed", TRIGGERS, "error")),
        ("type: int", "type: str", ("type-changed", BOTH, "error")),
        (STEP, f"{STEP}\n          customer: {{type: str, doc: Who.}}", ("field-required", TRIGGERS, "error")),
        (
            STEP,
            f"{STEP}\n          note: {{type: str, doc: A., default: \"''\"}}",
            ("field-added", COMPATIBLE, "notice"),
        ),
        (CLOSED, PAID + CLOSED, ("event-added", COMPATIBLE, "notice")),
        ("Triggered when the door opens.", "Triggered early.", ("documentation-changed", COMPATIBLE, "notice")),
        (STEP, STEP[:-1] + ", default: 0}", ("default-added", COMPATIBLE, "notice")),
        ("id: sale.closed", "repeats: true\n        id: sale.closed", ("occurrence-changed", LIFECYCLE, "warning")),
        ("optional: true}", "optional: false}", ("phase-changed", LIFECYCLE, "warning")),
        ("repeats: true, optional: true}", "around: opening}", ("phase-changed", LIFECYCLE, "warning")),
        ("The shop opens.", "The shop opens., any_order: true", ("phase-changed", LIFECYCLE, "warning")),
        ("terminal: true}", "aborts: true}", ("phase-changed", LIFECYCLE, "warning")),
        (
            "id: sale.closed",
            "ends: EVENT_SALE_OPENED\n        id: sale.closed",
            ("relation-changed", LIFECYCLE, "warning"),
        ),
        (
            "id: sale.closed",
            "after: EVENT_SALE_OPENED\n        id: sale.closed",
            ("relation-changed", LIFECYCLE, "warning"),
        ),
        (STEP, STEP[:-1] + ", device: true}", ("moved-to-device", HANDLERS, "error")),
        ("phase: opening", "phase: serving", ("phase-of-event-changed", LIFECYCLE, "warning")),
        ("package: shop.events", "package: shop.moments", ("package-changed", HANDLERS, "error")),
        ("id: sale.closed", "stability: stable\n        id: sale.closed", ("stability-changed", COMPATIBLE, "notice")),
        ("id: sale.closed", 'deprecated: {since: "1"}\n        id: sale.closed', ("deprecated", COMPATIBLE, "notice")),
    ],
)
def test_each_edit_has_its_class(empty: Workspace, before: str, after: str, expected: tuple[str, str, str]) -> None:
    """One edit is one change, of the class that its Python role gives it; only what breaks ends with 1."""
    assert before in SMALL
    new = SMALL.replace("fields:\n" + before, "fields:\n" + after).replace("fields:\n          {}", "fields: {}")
    new = new if new != SMALL else SMALL.replace(before, after)
    assert changes(empty, SMALL, new) == (int(expected[2] == "error"), [expected])


def test_a_value_that_moves_to_the_host_breaks_nobody(empty: Workspace) -> None:
    """Reading it no longer waits."""
    device = SMALL.replace(STEP, STEP[:-1] + ", device: true}")
    assert changes(empty, device, SMALL) == (0, [("moved-to-host", COMPATIBLE, "notice")])


def test_what_an_event_ends_or_comes_after_may_be_renamed(empty: Workspace) -> None:
    """A relation to an event with another name is the same relation, with or without an alias of the old name."""
    old = SMALL.replace("id: sale.closed", "after: EVENT_SALE_OPENED\n        id: sale.closed")
    new = old.replace("EVENT_SALE_OPENED", "EVENT_SALE_BEGUN")
    assert changes(empty, old, new) == (1, [("constant-renamed", HANDLERS, "error")])
    opened = SMALL[SMALL.index("      EVENT_SALE_OPENED") : SMALL.index("      EVENT_SALE_CUSTOMER_PRE")]
    alias = opened + f"        {ALIAS}EVENT_SALE_BEGUN}}\n"
    kinds_ = [kind for kind, _, _ in changes(empty, old, new.replace("    events:\n", "    events:\n" + alias))[1]]
    assert "relation-changed" not in kinds_


def test_a_changed_context_breaks_handlers(empty: Workspace) -> None:
    """An event that carries another context than before breaks the handlers that take the old one."""
    new = CLOSED.replace("EventDayContext", "EventStepContext")
    assert changes(empty, SMALL, SMALL.replace(CLOSED, new)) == (1, [("context-changed", HANDLERS, "error")])


def test_a_moved_phase_and_a_changed_order_are_changes_of_the_lifecycle(empty: Workspace) -> None:
    """What moves is named once, however much is passed by it; no constant breaks, so it ends with 0."""
    lines = SMALL.splitlines(keepends=True)
    opening = next(line for line in lines if line.startswith("      opening:"))
    closing = next(line for line in lines if line.startswith("      closing:"))
    moved_phase = SMALL.replace(opening, "").replace(closing, closing + opening)
    assert changes(empty, SMALL, moved_phase) == (0, [("phase-moved", LIFECYCLE, "warning")])
    events = SMALL.index("      EVENT_SALE_OPENED")
    moved_event = SMALL[:events] + CLOSED + SMALL[events:].replace(CLOSED, "")
    assert changes(empty, SMALL, moved_event) == (0, [("order-changed", LIFECYCLE, "warning")])


def test_what_is_experimental_warns_where_what_is_stable_fails(empty: Workspace) -> None:
    """Fields of an experimental context may be removed, retyped and added, with a warning."""
    new = EXPERIMENTAL.replace(STEP, "index: {type: str, doc: The step's index.}")
    assert changes(empty, EXPERIMENTAL, new) == (
        0,
        [("field-removed", HANDLERS, "warning"), ("field-required", TRIGGERS, "warning")],
    )
    retyped = EXPERIMENTAL.replace("type: int", "type: str")
    assert changes(empty, EXPERIMENTAL, retyped) == (0, [("type-changed", BOTH, "warning")])


def test_the_stability_that_counts_is_that_of_the_old_version(empty: Workspace) -> None:
    """Becoming experimental in the version that breaks it is no justification."""
    status, found = changes(empty, SMALL, EXPERIMENTAL.replace("type: int", "type: str"))
    assert status == 1
    assert ("type-changed", BOTH, "error") in found


def test_what_was_deprecated_may_go_with_a_warning(empty: Workspace) -> None:
    """The removal of what had been deprecated before is announced, and does not fail."""
    assert changes(empty, DEPRECATED_CLOSED, SMALL.replace(CLOSED, "")) == (0, [("event-removed", HANDLERS, "warning")])


def test_renames_through_deprecation_are_compatible(empty: Workspace) -> None:
    """An event and a field that stay as aliases of new ones break nobody, though constant and id are new."""
    shut = CLOSED.replace("CLOSED", "SHUT").replace("sale.closed", "sale.shut")
    new = SMALL.replace(CLOSED, f"{CLOSED}        {ALIAS}EVENT_SALE_SHUT}}\n{shut}")
    field = STEP.replace("step:", "index:", 1)
    new = new.replace(STEP, f"{STEP[:-1]}, {ALIAS}index}}}}\n          {field}")
    assert changes(empty, SMALL, new) == (
        0,
        [
            ("deprecated", COMPATIBLE, "notice"),
            ("field-added", COMPATIBLE, "notice"),
            ("deprecated", COMPATIBLE, "notice"),
            ("event-added", COMPATIBLE, "notice"),
        ],
    )


def test_a_context_renamed_through_deprecation_is_compatible(empty: Workspace) -> None:
    """Events may carry the successor of their old context."""
    context = "      EventDayContext:\n        doc: Context of a whole day.\n"
    successor = context.replace("EventDayContext", "EventDateContext")
    head, events = SMALL.split("    events:\n")
    head = head.replace(context, f"{context}        {ALIAS}EventDateContext}}\n{successor}")
    new = head + "    events:\n" + events.replace("EventDayContext", "EventDateContext")
    status, found = changes(empty, SMALL, new)
    assert (status, {kind for kind, _, _ in found}) == (0, {"deprecated", "context-added"})


LOADER = """\
version: 1
package: loop.events
modules:
  train:
    doc: Events of training.
    phases:
      configuration: {doc: The loop is assembled.}
    contexts:
      EventDataContext:
        doc: Context of the data.
        fields:
          stepper: {type: loop.stepper.Stepper, doc: Counts the steps.}
          run: {type: loop.run.Run, doc: Takes metrics.}
    events:
      EVENT_TRAIN_DATA_LOADER_READY:
        id: train.data_loader
        phase: configuration
        context: EventDataContext
        doc: Triggered when the data is ready.
"""
STREAM = (
    LOADER.replace("stepper: {type: loop.stepper.Stepper", "schedule: {type: loop.schedule.Schedule")
    .replace("run: {type: loop.run.Run", "writer: {type: loop.run.Writer")
    .replace("DATA_LOADER_READY", "DATA_STREAM_READY")
    .replace("train.data_loader", "train.data_stream")
)


def test_a_history_of_renames_without_aliases_breaks_both_sides(empty: Workspace) -> None:
    """A constant, its id, fields and their types renamed at once: what went breaks handlers, what came triggers."""
    assert changes(empty, LOADER, STREAM) == (
        1,
        [
            ("event-removed", HANDLERS, "error"),
            ("field-removed", HANDLERS, "error"),
            ("field-removed", HANDLERS, "error"),
            ("field-required", TRIGGERS, "error"),
            ("field-required", TRIGGERS, "error"),
            ("event-added", COMPATIBLE, "notice"),
        ],
    )


def test_a_history_of_renames_with_aliases_breaks_only_by_the_new_types(empty: Workspace) -> None:
    """With every old name kept as an alias, what is left to break is that the values are of other types."""
    old_fields = LOADER[LOADER.index("          stepper:") : LOADER.index("    events:")]
    old_event = LOADER[LOADER.index("      EVENT_TRAIN") :]
    aliases = old_fields.replace("steps.}", f"steps., {ALIAS}schedule}}}}").replace(
        "metrics.}", f"metrics., {ALIAS}writer}}}}"
    )
    new = STREAM.replace("        fields:\n", f"        fields:\n{aliases}")
    new += f"{old_event}        {ALIAS}EVENT_TRAIN_DATA_STREAM_READY}}\n"
    status, found = changes(empty, LOADER, new)
    assert status == 1
    assert sorted(found) == sorted(
        [
            *[("deprecated", COMPATIBLE, "notice")] * 3,
            *[("field-added", COMPATIBLE, "notice")] * 2,
            *[("type-changed", BOTH, "error")] * 2,
            ("event-added", COMPATIBLE, "notice"),
        ]
    )


def test_a_change_is_reported_with_both_positions(empty: Workspace) -> None:
    """The text shows the new line and the old one, whom the change breaks, and what to do."""
    empty.write(SMALL, "old.yaml")
    empty.write("# A comment.\n" + SMALL.replace("type: int", "type: int | None"), "new.yaml")
    status, output = empty.run("diff", "old.yaml", "new.yaml")
    assert status == 1
    assert output.splitlines() == [
        'new.yaml:11:24: error[type-widened]: the type of step was "int" and is now "int | None"',
        "   11 |           step: {type: int | None, doc: The step's index.}",
        "      |                        ^^^^^^^^^^",
        "old.yaml:10:24: before",
        "   10 |           step: {type: int, doc: The step's index.}",
        "      |                        ^^^",
        f"   breaking for handlers: {KINDS['type-widened'].advice}",
        "1 change: 1 breaking for handlers",
    ]


def test_changes_as_commands_of_github(empty: Workspace) -> None:
    """A change that breaks nothing is a notice."""
    empty.write(SMALL, "old.yaml")
    empty.write(SMALL.replace(CLOSED, PAID + CLOSED), "new.yaml")
    status, output = empty.run("diff", "old.yaml", "new.yaml", "--format", "github")
    assert status == 0
    assert output == (
        "::notice file=new.yaml,title=event-added,line=36,col=7,endColumn=22::"
        "sale has a new event EVENT_SALE_PAID; compatible: nothing has to change\n"
    )


def test_equal_versions_have_no_changes(empty: Workspace) -> None:
    """A comment is no change."""
    assert changes(empty, SMALL, "# A comment.\n" + SMALL) == (0, [])
    assert empty.run("diff", "old.yaml", "new.yaml") == (0, "no changes\n")


def test_revisions_of_git_are_compared_without_a_checkout(small: Workspace) -> None:
    """`REV` means the catalogue at that revision, `REV:path` any file at it; the working tree stays as it is."""
    git = shutil.which("git") or "git"
    author = ["-c", "user.name=A", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false"]
    for command in (["init", "-q"], ["add", "."], [*author, "commit", "-qm", "one"]):
        subprocess.run([git, *command], cwd=small.root, check=True)
    small.write(SMALL.replace("type: int", "type: str"))
    before = small.files()
    for old in ("HEAD", "HEAD:catalogue.yaml"):
        status, output = small.run("diff", old, "catalogue.yaml")
        assert status == 1
        assert "HEAD:catalogue.yaml:10:24: before" in output
    assert small.run("diff", "HEAD", "HEAD") == (0, "no changes\n")
    assert small.files() == before


@pytest.mark.parametrize("name", ["no-such-revision", "HEAD:no-such-file.yaml", ":", "", "nul\0l"])
def test_what_is_neither_file_nor_revision_is_wrong_use(small: Workspace, name: str) -> None:
    """A version that cannot be found exits with 2 and shows what to name."""
    status, output = small.run("diff", name, "catalogue.yaml")
    assert status == 2
    assert "error[unknown-revision]: it is not a file" in output
    assert "name two files, or two revisions of git" in output


def test_an_version_that_is_no_catalogue_is_refused(small: Workspace) -> None:
    """Errors in the schema of either version are reported."""
    small.write("version: 1\n", "old.yaml")
    status, output = small.run("diff", "old.yaml", "catalogue.yaml")
    assert status == 1
    assert output.startswith('old.yaml:1:1: error[missing-key]: the catalogue needs the key "modules"')


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("int", "int | None", Relation.WIDENED),
        ("int | None", "int", Relation.NARROWED),
        ("typing.Optional[int]", "None | int", Relation.SAME),
        ("typing.Union[int, str]", "str | int", Relation.SAME),
        ("list[typing.Optional[int]]", "list[int | None]", Relation.SAME),
        ("a.B", "object", Relation.WIDENED),
        ("typing.Any", "a.B", Relation.NARROWED),
        ("typing.Any", "object", Relation.WIDENED),
        ("object", "typing.Any", Relation.SAME),
        ("bool", "int", Relation.WIDENED),
        ("Exception", "ValueError", Relation.NARROWED),
        ("typing.Literal[1, 2]", "typing.Literal[1]", Relation.NARROWED),
        ("typing.Annotated[int, 'x']", "int", Relation.SAME),
        ("list[int]", "list[int | None]", Relation.CHANGED),
        ("int | str", "int | bytes", Relation.CHANGED),
        ("a.B", "a.C", Relation.CHANGED),
        ("a.B[", "a.B [", Relation.CHANGED),
    ],
)
def test_types_are_compared_as_sets_of_alternatives(old: str, new: str, expected: Relation) -> None:
    """Unions, optionals, `Any`, `object` and builtin classes are understood; all else has simply changed."""
    assert relation(old, new) is expected


TYPES = st.lists(st.sampled_from(["int", "bool", "str", "None", "a.B", "list[int]", "object"]), min_size=1, max_size=4)


@given(TYPES, TYPES)
def test_what_widens_one_way_narrows_the_other(old: list[str], new: list[str]) -> None:
    """Comparing in the other direction turns wider into narrower, and changes nothing else."""
    turned = {Relation.WIDENED: Relation.NARROWED, Relation.NARROWED: Relation.WIDENED}
    there, back = relation(" | ".join(old), " | ".join(new)), relation(" | ".join(new), " | ".join(old))
    assert back is turned.get(there, there)


@given(st.permutations(range(6)))
def test_as_few_items_move_as_possible(order: list[int]) -> None:
    """Without the moved items both orders are the same, and one step of one item is one move."""
    old = [str(number) for number in range(6)]
    new = [str(number) for number in order]
    going = moved(old, new)
    assert [name for name in new if name not in going] == [name for name in old if name not in going]
    assert len(moved(old, [*old[1:], old[0]])) == 1


TWO_NAMES = STEP + "\n          row: {type: int, doc: A row.}"
OLD_FIELD = f"          count: {{type: int, doc: Of old., {ALIAS}step}}}}\n"
OLD_EVENT = (
    CLOSED.replace("CLOSED", "SHUT").replace("sale.closed", "sale.shut") + f"        {ALIAS}EVENT_SALE_CLOSED}}\n"
)
WITH_ALIASES = SMALL.replace(STEP + "\n", TWO_NAMES + "\n" + OLD_FIELD) + OLD_EVENT
CHANGED_REPLACEMENT = ("replacement-changed", HANDLERS, "error")


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ("replaced_by: step", "replaced_by: row", [CHANGED_REPLACEMENT]),
        ("replaced_by: EVENT_SALE_CLOSED", "replaced_by: EVENT_SALE_OPENED", [CHANGED_REPLACEMENT]),
        (", replaced_by: EVENT_SALE_CLOSED", "", [CHANGED_REPLACEMENT]),
        (", replaced_by: step", "", [("field-required", TRIGGERS, "error"), CHANGED_REPLACEMENT]),
    ],
)
def test_an_alias_that_stands_for_something_else_breaks_handlers(
    empty: Workspace, before: str, after: str, expected: list[tuple[str, str, str]]
) -> None:
    """Who still uses the old name would hear, or read, something else."""
    status, found = changes(empty, WITH_ALIASES, WITH_ALIASES.replace(before, after))
    assert status == 1
    assert [change for change in found if change[0] != "documentation-changed"] == expected


def test_an_alias_may_follow_its_replacement_to_the_next_name(empty: Workspace) -> None:
    """When the target of an alias is renamed too, the alias names the newest name."""
    closed = CLOSED + f"        {ALIAS}EVENT_SALE_ENDED}}\n"
    ended = CLOSED.replace("CLOSED", "ENDED").replace("sale.closed", "sale.ended")
    new = WITH_ALIASES.replace(CLOSED, closed + ended, 1).replace(
        f"{ALIAS}EVENT_SALE_CLOSED", f"{ALIAS}EVENT_SALE_ENDED"
    )
    status, found = changes(empty, WITH_ALIASES, new)
    assert status == 0
    assert "replacement-changed" not in {kind for kind, _, _ in found}


def test_a_name_too_long_for_a_file_is_no_version(small: Workspace) -> None:
    """It is reported, without a traceback."""
    status, output = small.run("diff", "x" * 5_000, "catalogue.yaml")
    assert status == 2
    assert "error[unknown-revision]" in output


LOAN = """\
version: 1
package: loans.events
modules:
  loan:
    doc: Events of a loan.
    phases: {open: {doc: The desk is open.}}
    contexts:
      EventTermContext: {doc: Context of a term.}
    events:
      EVENT_LOAN_GIVEN: {id: loan.given, phase: open, context: EventTermContext, doc: Triggered when money goes.}
"""
SEVERAL = '[tool.d9d]\ncatalogues = ["catalogue.yaml", "loans/catalogue.yaml"]\n'


@pytest.fixture
def committed(small: Workspace) -> Workspace:
    """A project with two catalogues in a repository of git, with one commit."""
    small.write(LOAN, "loans/catalogue.yaml")
    small.write(SEVERAL, "pyproject.toml")
    git = shutil.which("git") or "git"
    author = ["-c", "user.name=A", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false"]
    for command in (["init", "-q"], ["add", "."], [*author, "commit", "-qm", "one"]):
        subprocess.run([git, *command], cwd=small.root, check=True)
    return small


def kinds(workspace: Workspace, *arguments: str) -> tuple[int, list[tuple[str, str]]]:
    """Return the exit status of `diff`, and the kind and the file of each change."""
    status, output = workspace.run("diff", *arguments, "--format", "json")
    return status, [(change["kind"], change["new"]["path"]) for change in json.loads(output)]


def test_all_catalogues_of_a_project_are_compared(committed: Workspace) -> None:
    """A revision alone means all of them, and so does what is on disk."""
    committed.write(LOAN.replace("EVENT_LOAN_GIVEN", "EVENT_LOAN_LENT"), "loans/catalogue.yaml")
    committed.write(SMALL.replace("type: int", "type: str"))
    expected = [("type-changed", "catalogue.yaml"), ("constant-renamed", "loans/catalogue.yaml")]
    assert kinds(committed, "HEAD") == (1, expected)
    assert kinds(committed, "HEAD", "HEAD") == (0, [])


def test_a_file_is_compared_with_the_same_file_at_a_revision(committed: Workspace) -> None:
    """Of two catalogues the one that is named."""
    committed.write(LOAN.replace("EVENT_LOAN_GIVEN", "EVENT_LOAN_LENT"), "loans/catalogue.yaml")
    assert kinds(committed, "HEAD", "catalogue.yaml") == (0, [])
    assert kinds(committed, "HEAD", "loans/catalogue.yaml") == (1, [("constant-renamed", "loans/catalogue.yaml")])
    assert kinds(committed, "HEAD", "--catalogue", "catalogue.yaml") == (0, [])


def test_a_catalogue_that_was_dropped_or_added_is_a_change(committed: Workspace) -> None:
    """What it declared can no longer be imported."""
    committed.write(SEVERAL.replace(', "loans/catalogue.yaml"', ""), "pyproject.toml")
    assert kinds(committed, "HEAD") == (1, [("catalogue-removed", "catalogue.yaml")])
    committed.write(LOAN.replace("loan", "rent").replace("LOAN", "RENT"), "rents/catalogue.yaml")
    committed.write(SEVERAL.replace('yaml"]', 'yaml", "rents/catalogue.yaml"]'), "pyproject.toml")
    assert kinds(committed, "HEAD") == (0, [("catalogue-added", "rents/catalogue.yaml")])


def test_a_catalogue_that_moved_is_known_by_its_package(committed: Workspace) -> None:
    """Nobody imports its path."""
    (committed.root / "loans/catalogue.yaml").rename(committed.root / "loans.yaml")
    committed.write(SEVERAL.replace("loans/catalogue.yaml", "loans.yaml"), "pyproject.toml")
    assert kinds(committed, "HEAD") == (0, [])
