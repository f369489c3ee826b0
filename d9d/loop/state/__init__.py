"""What a job carries from one process to the next, and from one number of processes to another."""

from d9d.loop.state.job_state import Held, JobState, Part
from d9d.loop.state.loop_state import inference_state, training_state
from d9d.loop.state.participants import find_participants

__all__ = ["Held", "JobState", "Part", "find_participants", "inference_state", "training_state"]
