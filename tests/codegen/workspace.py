"""A folder with a catalogue in it, in which the compiler can be run."""

from dataclasses import dataclass
from pathlib import Path

import pytest

from d9d_codegen.cli import main

SMALL = """\
version: 1
package: shop.events
modules:
  common:
    doc: Contexts of all loops.
    contexts:
      EventStepContext:
        doc: Context of a step.
        fields:
          step: {type: int, doc: The step's index.}
  sale:
    doc: Events of a sale.
    phases:
      opening: {doc: The shop opens.}
      serving: {doc: A customer is served., repeats: true, optional: true}
      closing: {doc: The shop closes., terminal: true}
    contexts:
      EventDayContext:
        doc: Context of a whole day.
    events:
      EVENT_SALE_OPENED:
        id: sale.opened
        phase: opening
        context: EventDayContext
        doc: Triggered when the door opens.
      EVENT_SALE_CUSTOMER_PRE:
        id: sale.customer.pre
        phase: serving
        context: EventStepContext
        doc: Triggered when a customer enters.
      EVENT_SALE_CUSTOMER_POST:
        id: sale.customer.post
        phase: serving
        context: EventStepContext
        doc: Triggered when a customer leaves.
      EVENT_SALE_CLOSED:
        id: sale.closed
        phase: closing
        context: EventDayContext
        doc: Triggered when the door closes.
"""
_, _, _SALE = SMALL.partition("  sale:\n")
TWO_LOOPS = SMALL + "  loan:\n" + _SALE.replace("sale", "loan").replace("SALE", "LOAN")
PYPROJECT = '[tool.d9d]\ndocs = "docs/events"\n'


@dataclass(frozen=True)
class Workspace:
    """A project in a temporary folder.

    Attributes:
        root: Its folder, which is also the current one.
        capture: Catches what the compiler prints.
    """

    root: Path
    capture: pytest.CaptureFixture[str]

    def write(self, text: str, path: str = "catalogue.yaml") -> Path:
        """Write a file, the catalogue if no other is named."""
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
        return file

    def read(self, path: str) -> str:
        """Return what a file holds."""
        return (self.root / path).read_text(encoding="utf-8")

    def run(self, *arguments: str) -> tuple[int, str]:
        """Run the compiler; return its exit status and what it printed."""
        self.capture.readouterr()
        status = main(arguments)
        return status, self.capture.readouterr().out

    def refused(self, catalogue: str) -> list[str]:
        """Return the first lines of all diagnostics of a catalogue, which must have some."""
        self.write(catalogue)
        status, output = self.run("lint")
        assert status == 1, output
        return [line for line in output.splitlines() if ": error[" in line]

    def files(self) -> dict[str, bytes]:
        """Return every file below the root, with what it holds."""
        return {str(path.relative_to(self.root)): path.read_bytes() for path in self.root.rglob("*") if path.is_file()}


def rules(output: str) -> list[str]:
    """Return the heads of printed diagnostics, without their messages."""
    return [line.partition("]")[0] + "]" for line in output.splitlines() if ": error[" in line]
