"""A project may replace templates of the compiler, or add its own."""

import pytest

from .workspace import PYPROJECT, Workspace


def test_a_template_takes_the_place_of_that_of_the_same_name(small: Workspace) -> None:
    """All others stay as they are; `check` takes the same option."""
    small.write("# {{ notice }}\nNAME = '{{ module.docstring }}'\n", "mine/module.py.jinja")
    assert small.run("generate", "--templates", "mine") == (0, "wrote 7 of 7 files\n")
    assert small.read("shop/events/sale.py").endswith('NAME = \'"""Events of a sale."""\'\n')
    assert small.run("check", "--templates", "mine")[0] == 0
    assert small.run("check")[0] == 1


def test_a_project_can_name_its_templates(small: Workspace) -> None:
    """`[tool.d9d] templates` makes the option superfluous."""
    small.write("<!-- {{ notice }} -->\nMine.\n", "mine/page.md.jinja")
    small.write(PYPROJECT + 'templates = "mine"\n', "pyproject.toml")
    small.run("generate")
    assert small.read("docs/events/sale.md").endswith("\nMine.\n")
    assert small.run("check")[0] == 0


def test_a_template_of_another_name_makes_one_more_file(small: Workspace) -> None:
    """It is filled once, with the whole catalogue, for the package; what begins with `_` is a part of others."""
    names = "{% for module in catalogue.modules %}{% include '_name.jinja' %}{% endfor %}"
    small.write(f"# {{{{ notice }}}}\n{names}", "mine/names.txt.jinja")
    small.write("{{ module.name }}\n", "mine/_name.jinja")
    assert small.run("generate", "--templates", "mine") == (0, "wrote 8 of 8 files\n")
    assert small.read("shop/events/names.txt").endswith("\ncommon\nsale\n")


@pytest.mark.parametrize(
    ("name", "template", "told"),
    [
        (
            "module.py.jinja",
            "# {{ notice }}\n  {{ module.docstrin }}\n",
            (
                "module.py.jinja:2:3: error[bad-template]: the template fails: UndefinedError: "
                "'d9d_codegen.render.python_module.PythonModule object' has no attribute 'docstrin'"
            ),
        ),
        (
            "page.md.jinja",
            "# {{ notice }}\n{% for event in %}\n",
            "page.md.jinja:2:1: error[bad-template]: the template fails: TemplateSyntaxError: Expected an expression",
        ),
        (
            "more.txt.jinja",
            "{{ notice }}\n{{ 1 / 0 }}\n",
            (
                "more.txt.jinja:2:1: error[bad-template]: the template fails: ZeroDivisionError: division by zero\n"
                "    2 | {{ 1 / 0 }}\n"
                "      | ^^^^^^^^^^^\n"
                "   correct the template\n"
            ),
        ),
        (
            "more.txt.jinja",
            "{% include 'none.jinja' %}\n",
            "more.txt.jinja:1:1: error[bad-template]: the template fails: TemplateNotFound: none.jinja\n",
        ),
        (
            "module.py.jinja",
            "# {{ notice }}\nclass:\n",
            (
                "module.py.jinja: error[bad-template]: the template renders invalid Python: invalid syntax in line 2\n"
                "   that line is 'class:'\n"
            ),
        ),
        (
            "sale.py.jinja",
            "# {{ notice }}\n",
            (
                "sale.py.jinja: error[bad-template]: "
                "the template renders shop/events/sale.py, which another one renders\n"
                "   rename it\n"
            ),
        ),
    ],
    ids=["undefined", "syntax", "failure", "include", "python", "taken"],
)
def test_a_template_that_fails_is_reported_with_its_file_and_line(
    small: Workspace, name: str, template: str, told: str
) -> None:
    """Whatever is wrong with a template, nothing is written."""
    small.write(template, f"mine/{name}")
    before = small.files()
    status, output = small.run("generate", "--templates", "mine")
    assert status == 1
    assert output.startswith(f"mine/{told}")
    assert small.files() == before


def test_a_file_of_a_template_without_digests_is_never_called_edited(small: Workspace) -> None:
    """An edit cannot be recognised, and the report says how to make that possible."""
    small.write("# {{ notice }}\nNAME = '{{ module.docstring }}'\n", "mine/module.py.jinja")
    small.run("generate", "--templates", "mine")
    small.write(small.read("catalogue.yaml").replace("Events of a sale.", "Of a sale."))
    _, output = small.run("check", "--templates", "mine")
    assert "edited-by-hand" not in output
    assert (
        "shop/events/sale.py: error[stale]: "
        "differs from catalogue.yaml; without digests an edit by hand cannot be recognised"
    ) in output
    assert "   run `d9d-catalogue generate`; put {{ digests }} into the first lines of its template\n" in output


def test_a_folder_of_templates_must_be_there(small: Workspace) -> None:
    """A misspelt folder is no empty one, and a name too long for a folder is none."""
    assert small.run("generate", "--templates", "x" * 5_000)[0] == 1
    assert small.run("generate", "--templates", "nowhere") == (
        1,
        (
            "nowhere: error[bad-template]: there is no such folder of templates\n"
            "   correct --templates, or templates in [tool.d9d]\n"
        ),
    )


def test_a_template_that_cannot_be_read_is_reported(small: Workspace) -> None:
    """Bytes that are no text are a diagnostic of the template; a folder called like one is none."""
    (small.root / "own/names.txt.jinja").mkdir(parents=True)
    assert small.run("generate", "--templates", "own")[0] == 0
    (small.root / "own/page.md.jinja").write_bytes(b"\xff")
    status, output = small.run("generate", "--templates", "own")
    assert status == 1
    assert output.startswith("own/page.md.jinja: error[bad-template]: the template fails: UnicodeDecodeError: ")


def test_a_file_of_a_template_that_is_gone_goes(small: Workspace) -> None:
    """It is removed like a module."""
    small.write("{{ notice }}\n", "own/names.txt.jinja")
    small.run("generate", "--templates", "own")
    assert (small.root / "shop/events/names.txt").exists()
    assert small.run("generate") == (0, "wrote 1 of 7 files, removed 1\n")
    assert not (small.root / "shop/events/names.txt").exists()
