"""What everything else rests on: the process, the protocols of its parts, the steps, the seeds."""
