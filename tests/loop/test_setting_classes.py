"""The table of settings in the guide: each setting is changed once between two runs, which do what the table says."""

import re
from pathlib import Path

import pytest
from documents import ROOT
from ranks import run_on_ranks
from setting_changes import changes_in, outcome_of, outcomes_on_ranks

from d9d.loop.config import TrainingConfig

PAGE = (ROOT / "docs/guide/resuming.md").read_text(encoding="utf-8")
CLASSES = dict(re.findall(r"^\| (.*?) \| (adopted|data order|identity|free) \|", PAGE, flags=re.MULTILINE))


def test_the_table_has_every_setting() -> None:
    """And only those that there are."""
    fields = {name.strip("`") for name in CLASSES if name.startswith("`")}

    assert fields == set(TrainingConfig.model_fields)
    assert set(changes_in(Path())) == set(CLASSES) - {"`mesh`"}


@pytest.mark.parametrize("setting", [setting for setting in CLASSES if setting != "`mesh`"])
def test_a_changed_setting_does_what_the_table_says(
    setting: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """In a job of one process."""
    with caplog.at_level("INFO"):
        found = outcome_of(tmp_path / "run", setting, lambda: [record.getMessage() for record in caplog.records])

    assert found == CLASSES[setting]


@pytest.mark.slow
def test_settings_do_the_same_on_two_ranks(tmp_path: Path) -> None:
    """With a model that is sharded over them."""
    first, second = run_on_ranks(2, outcomes_on_ranks, tmp_path)

    assert first == {setting: kind for setting, kind in CLASSES.items() if setting != "`mesh`"}
    # The other rank logs nothing, and refuses the same.
    assert {name: kind for name, kind in second.items() if kind in ("identity", "data order")} == {
        name: kind for name, kind in first.items() if kind in ("identity", "data order")
    }
