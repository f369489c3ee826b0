"""`docs/config.md` and the JSON schema describe every setting."""

from pathlib import Path

from config_page import groups, own_fields, page

from d9d.loop.config import TrainingConfig

PAGE = Path(__file__).parents[2] / "docs" / "config.md"


def test_the_committed_page_is_made_from_the_settings() -> None:
    """The committed page is the output of `make generate`."""
    assert PAGE.read_text(encoding="utf-8") == page()


def test_every_setting_is_described() -> None:
    """In the class, in the page and in the schema."""
    text = PAGE.read_text(encoding="utf-8")
    fields = {(group, name): field for group in groups() for name, field in own_fields(group).items()}

    assert [f"{group.__name__}.{name}" for (group, name), field in fields.items() if not field.description] == []
    assert [name for _, name in fields if f"| `{name}` |" not in text] == []
    schema = TrainingConfig.model_json_schema()
    described = {
        name: each.get("description") or schema["$defs"][each["$ref"].rpartition("/")[2]]["description"]
        for name, each in schema["properties"].items()
    }
    assert described == {name: field.description for name, field in TrainingConfig.model_fields.items()}
