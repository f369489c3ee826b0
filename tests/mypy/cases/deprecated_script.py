"""Uses of deprecated names in a script, which has no class, no function and no annotation."""
# ruff: noqa: F403, F405 -- names reach code in this way too

from lab.events.trial import *

from d9d.loop.event import EventBus

bus = EventBus()
# E[d9d-deprecated]: EVENT_TRIAL_TURN_POST ("trial.turn.post") is deprecated since 0.2: use EVENT_TRIAL_ROUND_POST
#   instead. Turns are called rounds now.
wrong = [EVENT_TRIAL_TURN_POST, EVENT_TRIAL_ROUND_POST]
right = [EVENT_TRIAL_ROUND_POST]
for event in wrong + right:
    bus.subscribe(event, print)
# E[d9d-deprecated]: EVENT_TRIAL_TURN_POST ("trial.turn.post") is deprecated since 0.2: use EVENT_TRIAL_ROUND_POST
#   instead. Turns are called rounds now.
bus.subscribe(EVENT_TRIAL_TURN_POST, print)
