"""Mistakes that users make in hooks, as edits of the task in the example `bytes_lm`."""

import dataclasses
from typing import Final

TASK: Final = "task.py"
_OWN_EVENTS: Final = (
    "logger = logging.getLogger(__name__)\n",
    (
        "logger = logging.getLogger(__name__)\n"
        'EVENT_ROUTING_PRE: Event[EventStepContext] = Event(id="routing.report.pre")\n'
        'EVENT_ROUTING_POST: Event[EventStepContext] = Event(id="routing.report.post")\n'
        'EVENT_BALANCE_POST: Event[EventStepContext] = Event(id="routing.balance.post")\n'
    ),
)
_IMPORT_EVENT: Final = (
    "    ComputeLossResult,\n",
    "    ComputeLossResult,\n    Event,\n",
)
_IMPORT_STEP_OF_INFERENCE: Final = (
    "    EVENT_INFERENCE_FINISHED,\n",
    "    EVENT_INFERENCE_FINISHED,\n    EVENT_INFERENCE_STEP_POST,\n",
)
_REGISTER: Final = "        subscribe_annotated(ctx.event_bus, self)\n\n    def build_forward_inputs"
_BALANCE: Final = "    def _balance_load(self, ctx: EventStepContext) -> None:\n"
_REPORT: Final = "    def _report_routing(self, ctx: EventStepContext) -> None:\n"
_OF_TRAINING: Final = "\n\nclass BitsPerByteTask"


@dataclasses.dataclass(frozen=True)
class SeededMistake:
    """One edit of the example.

    Attributes:
        name: The mistake, in a few words.
        edits: Pairs of an old text and a new one, which replaces the first occurrence of the old one.
        code: The error code that mypy reports.
        words: Parts of the message.
    """

    name: str
    edits: tuple[tuple[str, str], ...]
    code: str
    words: tuple[str, ...]


MISTAKES: Final = (
    SeededMistake(
        "a handler takes the context of another event",
        ((_REPORT, _REPORT.replace("EventStepContext", "EventModelStagesReadyContext")),),
        "d9d-handler",
        (
            '"_report_routing"',
            'EVENT_TRAIN_STEP_POST ("train.step.post")',
            "Did you mean the event EVENT_TRAIN_MODEL_STAGES_READY",
        ),
    ),
    SeededMistake(
        "a handler is asynchronous",
        ((_BALANCE, _BALANCE.replace("def", "async def")),),
        "d9d-handler",
        ('"_balance_load"', "EVENT_TRAIN_OPTIMIZER_STEP_POST", "asynchronous"),
    ),
    SeededMistake(
        "a handler requires a second argument",
        ((_BALANCE, _BALANCE.replace("ctx: EventStepContext", "ctx: EventStepContext, rate: float")),),
        "d9d-handler",
        ('"_balance_load"', "EVENT_TRAIN_OPTIMIZER_STEP_POST", '"rate"'),
    ),
    SeededMistake(
        "a lambda takes nothing",
        ((_REGISTER, "        ctx.event_bus.subscribe(EVENT_TRAIN_STEP_POST, lambda: None)\n" + _REGISTER),),
        "d9d-handler",
        ("EVENT_TRAIN_STEP_POST", "takes no positional argument"),
    ),
    SeededMistake(
        "a handler does not annotate its context",
        ((_BALANCE, "    def _balance_load(self, ctx):\n"),),
        "d9d-untyped-handler",
        ('"_balance_load"', "EVENT_TRAIN_OPTIMIZER_STEP_POST", '"EventStepContext"'),
    ),
    SeededMistake(
        "an event is triggered with the context at hand",
        ((_REGISTER, "        ctx.event_bus.trigger(EVENT_TRAIN_STEP_POST, ctx)\n" + _REGISTER),),
        "d9d-context",
        ("EVENT_TRAIN_STEP_POST", '"RegisterTaskEventsContext"', '"EventStepContext"'),
    ),
    SeededMistake(
        "a block ends with the event of another block",
        (
            _IMPORT_EVENT,
            _OWN_EVENTS,
            (
                _REGISTER,
                _REGISTER.replace("self)\n", "self)\n        self._bus = ctx.event_bus\n", 1),
            ),
            (
                _REPORT,
                _REPORT
                + "        with self._bus.bounded(EVENT_ROUTING_PRE, EVENT_BALANCE_POST, ctx):\n            pass\n",
            ),
        ),
        "d9d-pair",
        ("EVENT_ROUTING_PRE", "EVENT_BALANCE_POST", '"routing.report.post"'),
    ),
    SeededMistake(
        "a block is never entered",
        (
            _IMPORT_EVENT,
            _OWN_EVENTS,
            (_REGISTER, _REGISTER.replace("self)\n", "self)\n        self._bus = ctx.event_bus\n", 1)),
            (_REPORT, _REPORT + "        self._bus.bounded(EVENT_ROUTING_PRE, EVENT_ROUTING_POST, ctx)\n"),
        ),
        "d9d-pair",
        ("EVENT_ROUTING_PRE", '"with bus.bounded(...):"'),
    ),
    SeededMistake(
        "an emitter is never called",
        (
            _IMPORT_EVENT,
            _OWN_EVENTS,
            (_REGISTER, _REGISTER.replace("self)\n", "self)\n        self._bus = ctx.event_bus\n", 1)),
            (_REPORT, _REPORT + "        self._bus.emitter(EVENT_ROUTING_PRE)\n"),
        ),
        "d9d-emitter",
        ("EVENT_ROUTING_PRE", "keep the emitter"),
    ),
    SeededMistake(
        "a handler counts the steps of an event outside them",
        (
            (
                "@subscribe(EVENT_TRAIN_MODEL_STAGES_READY)",
                "@subscribe(EVENT_TRAIN_MODEL_STAGES_READY, every=10)",
            ),
        ),
        "d9d-filter",
        ("EVENT_TRAIN_MODEL_STAGES_READY", "every", "step.pre"),
    ),
    SeededMistake(
        "the main process alone calls a collective",
        (
            (
                "    @subscribe(EVENT_TRAIN_OPTIMIZER_STEP_POST)\n",
                "    @subscribe(EVENT_TRAIN_OPTIMIZER_STEP_POST, main_process_only=True)\n",
            ),
            (
                "        self._load_balancer.step()\n",
                "        self._load_balancer.step()\n        torch.distributed.barrier()\n",
            ),
        ),
        "d9d-collective",
        ("_balance_load", "barrier", "main_process_only"),
    ),
    SeededMistake(
        "a training task handles a step of inference",
        (_IMPORT_STEP_OF_INFERENCE, ("@subscribe(EVENT_TRAIN_STEP_POST)", "@subscribe(EVENT_INFERENCE_STEP_POST)")),
        "d9d-scope",
        ("_report_routing", "EVENT_INFERENCE_STEP_POST", "EVENT_TRAIN_STEP_POST"),
    ),
    SeededMistake(
        "an inference task handles the start of training",
        (("@subscribe(EVENT_INFERENCE_CONFIG_STARTED)", "@subscribe(EVENT_TRAIN_CONFIG_STARTED)"),),
        "d9d-scope",
        ("_move_to_device", "EVENT_TRAIN_CONFIG_STARTED", "EVENT_INFERENCE_CONFIG_STARTED"),
    ),
    SeededMistake(
        "a task forgets to register its handlers",
        (
            (
                _REGISTER,
                _REGISTER.replace("subscribe_annotated(ctx.event_bus, self)", 'logger.info("registered")'),
            ),
        ),
        "d9d-unregistered",
        ("LanguageModelTask", "_report_routing", "subscribe_annotated"),
    ),
    SeededMistake(
        "a task registers its handlers twice",
        (
            (
                _REGISTER,
                _REGISTER.replace(
                    "        subscribe_annotated(ctx.event_bus, self)\n",
                    "        subscribe_annotated(ctx.event_bus, self)\n" * 2,
                ),
            ),
        ),
        "d9d-twice",
        ("LanguageModelTask", "twice"),
    ),
    SeededMistake(
        "a task registers its class instead of itself",
        (
            (
                _REGISTER,
                _REGISTER.replace(
                    "subscribe_annotated(ctx.event_bus, self)", "subscribe_annotated(ctx.event_bus, type(self))"
                ),
            ),
        ),
        "d9d-target",
        ("class",),
    ),
    SeededMistake(
        "a task has no method that registers its handlers",
        (
            (
                "    def register_events(self, ctx: RegisterTaskEventsContext)",
                "    def subscribe_all(self, ctx: RegisterTaskEventsContext)",
            ),
        ),
        "d9d-unregistered",
        ("LanguageModelTask", "register_events"),
    ),
    SeededMistake(
        "an override is not subscribed",
        (
            (
                _OF_TRAINING,
                "\n\nclass QuietTask(LanguageModelTask):\n" + _REPORT + "        pass\n" + _OF_TRAINING,
            ),
        ),
        "d9d-dropped",
        ("_report_routing", "LanguageModelTask", "EVENT_TRAIN_STEP_POST"),
    ),
    SeededMistake(
        "an event is in the namespace of the loop",
        (_IMPORT_EVENT, (_OWN_EVENTS[0], _OWN_EVENTS[1].replace("routing.report.pre", "train.routing"))),
        "d9d-event-id",
        ("EVENT_ROUTING_PRE", '"train"'),
    ),
    SeededMistake(
        "an id is a sentence",
        (_IMPORT_EVENT, (_OWN_EVENTS[0], _OWN_EVENTS[1].replace("routing.report.pre", "Routing is reported"))),
        "d9d-event-id",
        ("EVENT_ROUTING_PRE", '"Routing is reported"'),
    ),
    SeededMistake(
        "an event is named by its deprecated name",
        (
            (
                "from model import Block, BytesLM, ModelConfig\n",
                (
                    "from model import Block, BytesLM, ModelConfig\n"
                    "from lab.events.trial import EVENT_TRIAL_TURN_POST\n"
                    "from lab.events.trial import EventRoundContext\n"
                ),
            ),
            (
                "    @subscribe(EVENT_TRAIN_STEP_POST)\n",
                (
                    "    @subscribe(EVENT_TRIAL_TURN_POST)\n"
                    "    def _forget(self, ctx: EventRoundContext) -> None: ...\n\n"
                    "    @subscribe(EVENT_TRAIN_STEP_POST)\n"
                ),
            ),
        ),
        "d9d-deprecated",
        ("EVENT_TRIAL_TURN_POST", "EVENT_TRIAL_ROUND_POST"),
    ),
    SeededMistake(
        "a step branches on a tensor",
        (
            (
                "        self._load_balancer.step()\n",
                (
                    "        if self._load_balancer.take_statistics().balance.min() < 1:\n"
                    "            self._load_balancer.step()\n"
                ),
            ),
        ),
        "d9d-host-sync",
        ("_balance_load", "EVENT_TRAIN_OPTIMIZER_STEP_POST"),
    ),
    SeededMistake(
        "a report is made in every step",
        (("        if not ctx.stepper.is_due(self._report_period_steps):\n            return\n", ""),),
        "d9d-host-sync",
        ("_report_routing", "EVENT_TRAIN_STEP_POST", "is_due"),
    ),
    SeededMistake(
        "only one rank calls a collective",
        (
            (
                "        statistics = self._load_balancer.take_statistics()\n",
                (
                    "        statistics = self._load_balancer.take_statistics()\n"
                    "        if torch.distributed.get_rank() == 0:\n"
                    "            torch.distributed.all_reduce(statistics.balance)\n"
                ),
            ),
        ),
        "d9d-collective",
        ("_report_routing", "EVENT_TRAIN_STEP_POST", "all_reduce"),
    ),
    SeededMistake(
        "a handler reads what a later one assigns",
        (
            (
                "    @subscribe(EVENT_TRAIN_MODEL_STAGES_READY)\n",
                (
                    "    @subscribe(EVENT_TRAIN_CONFIG_STARTED)\n"
                    "    def _tell_balancer(self, ctx: EventConfigurationStartedContext) -> None:\n"
                    '        logger.info("balanced by %s", self._load_balancer)\n\n'
                    "    @subscribe(EVENT_TRAIN_MODEL_STAGES_READY)\n"
                ),
            ),
        ),
        "d9d-order",
        ("_load_balancer", "EVENT_TRAIN_CONFIG_STARTED", "EVENT_TRAIN_MODEL_STAGES_READY"),
    ),
)
