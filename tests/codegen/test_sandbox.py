"""Templates of a project run no code and read no other file, whatever is in the checkout."""

from pathlib import Path

import pytest

from d9d_codegen.render import ATTRIBUTES

from .workspace import PYPROJECT, Workspace

DOCUMENTED = Path(__file__).parents[2] / "docs" / "catalogue" / "templates.md"
HOSTILE = [
    "{{ cycler.__init__.__globals__.os.popen('touch pwned').read() }}",
    "{{ lipsum.__globals__['os'].system('touch pwned') }}",
    "{{ joiner }}",
    "{{ namespace() }}",
    "{{ range(3) }}",
    "{{ dict(a=1) }}",
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{{ ''|attr('__class__') }}",
    "{{ ''['__class__'] }}",
    "{{ '{0.source.path}'.format(catalogue) }}",
    "{{ '{0.__class__}'.format(catalogue) }}",
    "{{ ('{0.__' + 'class__}').format_map({'0': catalogue}) }}",
    "{{ ('{0.source.path}'|attr('format'))(catalogue) }}",
    "{% set f = '{0.source.path}'.format %}{{ f(catalogue) }}",
    "{{ ['{0.source.path}']|map('format', catalogue)|map('attr', '__class__')|join }}",
    "{{ [catalogue]|map('attr', 'source')|join }}",
    "{{ [catalogue]|groupby('source.path') }}",
    "{{ catalogue.modules|map(attribute='name.__class__.__mro__')|join }}",
    "{{ [catalogue]|selectattr('source.path')|list }}",
    "{{ [catalogue]|sort(attribute='source.path.parent') }}",
    "{{ catalogue.source.path.write_text('pwned') }}",
    "{{ catalogue['source'] }}",
    "{{ catalogue|attr('source') }}",
    "{{ [catalogue]|map(attribute='source.path')|join }}",
    "{{ [catalogue]|sum(attribute='source') }}",
    "{{ catalogue.environment.resolver.find('os') }}",
    "{{ catalogue.suppressions }}",
    "{{ catalogue.__init__.__globals__ }}",
    "{{ catalogue.modules[0].own_events.__class__ }}",
    "{{ catalogue.modules[0].__dict__ }}",
    "{{ self.__init__.__globals__ }}",
    "{{ self._TemplateReference__context }}",
    "{% macro m() %}{% endmacro %}{{ m._func.__globals__ }}",
    "{% for x in [1] %}{{ loop.__class__ }}{% endfor %}",
    "{{ notice.__class__ }}",
    "{{ {}.update({'a': 1}) }}",
    "{% include '../secret.txt' %}",
    "{% include '/etc/passwd' %}",
    "{% import '../secret.txt' as secret %}",
    "{% include '_linked.jinja' %}",
    "{% extends '_linked.jinja' %}",
]


@pytest.mark.parametrize("expression", HOSTILE)
def test_a_hostile_template_is_refused_and_does_nothing(small: Workspace, expression: str) -> None:
    """Neither a shell, nor Python's objects, nor paths, nor files outside the folder are in reach."""
    small.write("a secret", "secret.txt")
    small.write(f"{{{{ notice }}}}\n{expression}\n", "mine/more.txt.jinja")
    (small.root / "mine/_linked.jinja").symlink_to(small.root / "secret.txt")
    small.write(PYPROJECT + 'templates = "mine"\n', "pyproject.toml")
    before = small.files()
    for command in ("check", "generate", "types"):
        status, output = small.run(command)
        assert (status, "mine/more.txt.jinja:2:1: error[bad-template]" in output) == (1, True), output
    assert small.files() == before


@pytest.mark.parametrize("name", ["module.py.jinja", "more.txt.jinja"])
def test_a_template_that_is_a_link_to_another_file_is_refused(small: Workspace, name: str) -> None:
    """The text of a file elsewhere would end up in a generated one."""
    small.write("a secret", "secret.txt")
    (small.root / "mine").mkdir()
    (small.root / "mine" / name).symlink_to(small.root / "secret.txt")
    status, output = small.run("generate", "--templates", "mine")
    assert (status, output.partition("\n")[0]) == (
        1,
        (
            f"mine/{name}: error[bad-template]: "
            f"the template fails: SecurityError: {name} is outside the folder of templates"
        ),
    )


def test_a_folder_of_templates_that_is_a_link_out_of_the_project_is_refused(small: Workspace) -> None:
    """Only `--templates`, which the user types, may name a folder anywhere."""
    outside = small.root.parent / f"{small.root.name}-templates"
    outside.mkdir()
    (small.root / "mine").symlink_to(outside)
    small.write(PYPROJECT + 'templates = "mine"\n', "pyproject.toml")
    status, output = small.run("generate")
    assert (status, "error[bad-project]: [tool.d9d] templates is 'mine', a link that leads out" in output) == (1, True)
    small.write(PYPROJECT, "pyproject.toml")
    assert small.run("generate", "--templates", str(outside))[0] == 0


def test_a_template_may_use_loops_macros_and_parts(small: Workspace) -> None:
    """What Jinja is for still works, blocks and recursive loops included."""
    small.write("{% macro name(entry) %}<{{ entry.name }}>{% endmacro %}\n", "mine/_macros.jinja")
    small.write("{% block body %}base{% endblock %}\n", "mine/_base.jinja")
    small.write(
        "{% extends '_base.jinja' %}{% import '_macros.jinja' as macros %}{% block body %}{{ notice }}\n"
        "{% for module in catalogue.modules %}{{ loop.index }}{{ macros.name(module) }}"
        "{% for event in module.own_events %}{{ event.id.upper() | code }}-{% endfor %}"
        "{% endfor %}{{ super() }}{% endblock %}",
        "mine/more.txt.jinja",
    )
    assert small.run("generate", "--templates", "mine") == (0, "wrote 8 of 8 files\n")
    expected = "1<common>2<sale>`SALE.OPENED`-`SALE.CUSTOMER.PRE`-`SALE.CUSTOMER.POST`-`SALE.CLOSED`-base"
    assert small.read("shop/events/more.txt").splitlines()[-1] == expected


def test_every_attribute_in_reach_is_documented() -> None:
    """The page lists the objects and what may be read of each."""
    page = DOCUMENTED.read_text(encoding="utf-8")
    for kind, names in ATTRIBUTES.items():
        [line] = [line for line in page.splitlines() if line.startswith(f"| `{kind.__name__}` |")]
        listed = [
            name.partition("(")[0]
            for name in line.split("|")[2].replace("`", "").replace(",", "").split()
            if name[0].isalpha()
        ]
        assert sorted(listed) == sorted(names.split())
