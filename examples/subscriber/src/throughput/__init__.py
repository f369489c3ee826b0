"""Measures how fast any d9d training runs, and tells whoever listens."""

from throughput.alarm import SlowdownAlarm
from throughput.meter import ThroughputMeter

__all__ = ["SlowdownAlarm", "ThroughputMeter"]
