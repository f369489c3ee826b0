"""Thirty mistakes that users make in hooks: the programs in the folder `seeded`, and how each is found.

Most of them were reported to other frameworks. A change of the plugin or of `d9d check` that finds more, or less,
changes this table, and the page that is made from it.
"""

import ast
import dataclasses
import enum
from pathlib import Path
from typing import Final

from d9d.mypy import diagnostics

PROGRAMS: Final = Path(__file__).parent / "seeded"


class Way(enum.Enum):
    """How mistakes are found; the value says on the page what is run."""

    MYPY = "mypy with the plugin"
    CHECK = "`d9d check`"
    START = "`configure()`"


SECONDS: Final = {Way.MYPY: 120, Way.CHECK: 2, Way.START: 20}
"""The bounds that the page states for the processor time of each way, all thirty programs together."""


class Outcome(enum.StrEnum):
    """What happens if nothing finds a mistake."""

    SILENT = "never called, and nothing says so"
    HANG = "hangs until the collective times out"
    SLOW = "each step waits for the device"
    TWICE = "called twice"
    WRONG_WEIGHTS = "trains on with the averaged weights"
    MEMORY = "out of memory, after hours"
    START = "fails at the start"
    FIRST_STEP = "fails in the first step"
    LATER_STEP = "fails in step 1000"
    END = "fails after the last step"
    RESUME = "fails when a run resumes"
    WRONG_EVENT = "handlers of another event are called"
    COLLISION = "collides with an event of a later version"


@dataclasses.dataclass(frozen=True, kw_only=True)
class SeededMistake:
    """One of the programs.

    Attributes:
        program: The name of its file, without the suffix. Its docstring says what the mistake is.
        report: The public report of the same mistake in another framework, as `owner/repository#number`.
        outcome: What happens if nothing finds it, here or in the framework of the report.
        named: What every message about it contains.
        mypy: The error code that mypy reports for types, if it finds the mistake by them.
        check: The code that `d9d check` reports, if it finds the mistake. The plugin reports it, too, unless it has
            types to check the same.
        start: The error that the program raises before `configure()` has returned, if that refuses the mistake.
    """

    program: str
    report: str | None = None
    outcome: Outcome
    named: str = ""
    mypy: str | None = None
    check: str | None = None
    start: str | None = None

    @property
    def text(self) -> str:
        """What the mistake is, in a sentence."""
        return ast.get_docstring(ast.parse((PROGRAMS / f"{self.program}.py").read_text(encoding="utf-8"))) or ""

    @property
    def found_by(self) -> dict[Way, set[str]]:
        """What each way that finds it reports."""
        of_program = self.check if self.check in diagnostics.CODES else None
        found = {Way.MYPY: {self.mypy, of_program}, Way.CHECK: {self.check}, Way.START: {self.start}}
        return {way: known for way, what in found.items() if (known := {each for each in what if each is not None})}


MISTAKES: Final = (
    SeededMistake(
        program="misspelt_event",
        report="Lightning-AI/pytorch-lightning#17187",
        outcome=Outcome.SILENT,
        named="EVENT_TRAIN_BATCH_END",
        mypy="attr-defined",
        start="AttributeError",
    ),
    SeededMistake(
        program="foreign_callback",
        report="huggingface/transformers#9602",
        outcome=Outcome.START,
        named="EarlyStopping",
        check="d9d-target",
        start="ConfigurationError",
    ),
    SeededMistake(
        program="nested_list",
        report="foundation-model-stack/fms-hf-tuning#199",
        outcome=Outcome.START,
        named="list",
        check="d9d-target",
        start="ConfigurationError",
    ),
    SeededMistake(
        program="class_for_object",
        report="fastai/fastai#1084",
        outcome=Outcome.START,
        named="Progress",
        check="d9d-target",
        start="ConfigurationError",
    ),
    SeededMistake(
        program="second_argument",
        report="CompVis/stable-diffusion#776",
        outcome=Outcome.FIRST_STEP,
        named="log_images",
        mypy="d9d-handler",
        start="TypeError",
    ),
    SeededMistake(
        program="untriggered_event",
        report="speechbrain/speechbrain#2721",
        outcome=Outcome.SILENT,
        named="EVENT_FIT_BATCH_PRE",
        check="d9d-untriggered",
    ),
    SeededMistake(
        program="forgotten_subscriber",
        report="open-mmlab/mmdetection#7748",
        outcome=Outcome.SILENT,
        named="Profiler",
        check="d9d-unregistered",
    ),
    SeededMistake(
        program="registered_twice",
        report="axolotl-ai-cloud/axolotl#2090",
        outcome=Outcome.TWICE,
        named="twice",
        check="d9d-twice",
        start="ConfigurationError",
    ),
    SeededMistake(
        program="save_on_main_process",
        report="huggingface/accelerate#2000",
        outcome=Outcome.HANG,
        named='"save"',
        check="d9d-collective",
    ),
    SeededMistake(
        program="gather_on_rank_zero",
        report="Lightning-AI/pytorch-lightning#16541",
        outcome=Outcome.HANG,
        named='"all_gather"',
        check="d9d-collective",
    ),
    SeededMistake(
        program="metric_on_rank_zero",
        report="Lightning-AI/torchmetrics#938",
        outcome=Outcome.HANG,
        named='"all_reduce"',
        check="d9d-collective",
    ),
    SeededMistake(
        program="collective_on_main_process",
        report="deepspeedai/DeepSpeed#801",
        outcome=Outcome.HANG,
        named='"barrier"',
        check="d9d-collective",
    ),
    SeededMistake(
        program="averaged_weights_stay",
        report="PKU-YuanGroup/Open-Sora-Plan#186",
        outcome=Outcome.WRONG_WEIGHTS,
        named="swap_in",
        check="d9d-restore",
    ),
    SeededMistake(
        program="loss_read_each_step",
        report="meta-pytorch/torchtune#522",
        outcome=Outcome.SLOW,
        named='".item()"',
        check="d9d-host-sync",
    ),
    SeededMistake(
        program="debug_log_reads_tensor",
        report="openvdb/fvdb-reality-capture#308",
        outcome=Outcome.SLOW,
        named="formats a tensor",
        check="d9d-host-sync",
    ),
    SeededMistake(
        program="attribute_missing_on_resume",
        report="fsspec/gcsfs#941",
        outcome=Outcome.RESUME,
        named="start_time",
        check="d9d-order",
    ),
    SeededMistake(
        program="graph_kept",
        report="pytorch/pytorch#1840",
        outcome=Outcome.MEMORY,
        named="_losses",
        check="d9d-held",
    ),
    SeededMistake(
        program="late_subscription",
        report="open-edge-platform/anomalib#1642",
        outcome=Outcome.SILENT,
        named="EVENT_TRAIN_CONFIG_STARTED",
        check="d9d-late",
    ),
    SeededMistake(
        program="decorator_loses_handler",
        outcome=Outcome.SILENT,
        named='"report"',
        check="d9d-dropped",
    ),
    SeededMistake(
        program="override_without_mark",
        outcome=Outcome.SILENT,
        named="Progress.report",
        check="d9d-dropped",
        start="TypeError",
    ),
    SeededMistake(
        program="task_without_registration",
        outcome=Outcome.SILENT,
        named="sample",
        check="d9d-unregistered",
        start="ConfigurationError",
    ),
    SeededMistake(
        program="event_of_another_loop",
        outcome=Outcome.SILENT,
        named="inference.step.post",
        check="d9d-scope",
        start="ConfigurationError",
    ),
    SeededMistake(
        program="period_outside_steps",
        outcome=Outcome.START,
        named="train.configuration.optimizer",
        mypy="d9d-filter",
        start="ValueError",
    ),
    SeededMistake(
        program="emitter_never_called",
        outcome=Outcome.SILENT,
        named="EVENT_SAMPLE",
        check="d9d-emitter",
    ),
    SeededMistake(
        program="end_of_another_block",
        outcome=Outcome.WRONG_EVENT,
        named="EVENT_SAMPLING_",
        check="d9d-pair",
    ),
    SeededMistake(
        program="id_of_the_loop",
        outcome=Outcome.COLLISION,
        named="train.warm",
        mypy="d9d-event-id",
        start="ConfigurationError",
    ),
    SeededMistake(
        program="context_of_another_event",
        outcome=Outcome.END,
        named="EVENT_TRAIN_FINISHED",
        mypy="d9d-handler",
        check="d9d-handler",
    ),
    SeededMistake(
        program="context_without_annotation",
        outcome=Outcome.END,
        named="EVENT_TRAIN_FINISHED",
        mypy="d9d-untyped-handler",
    ),
    SeededMistake(
        program="context_at_hand",
        outcome=Outcome.LATER_STEP,
        named="EVENT_WARM",
        mypy="d9d-context",
        check="d9d-context",
    ),
    SeededMistake(
        program="read_before_set",
        outcome=Outcome.RESUME,
        named="start",
        check="d9d-order",
    ),
)
