"""Measures the speed of a training run, and triggers an event for it."""

from throughput.alarm import SlowdownAlarm
from throughput.meter import ThroughputMeter

__all__ = ["SlowdownAlarm", "ThroughputMeter"]
