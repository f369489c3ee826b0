"""The foundations of the loops: processes and devices, protocols, steps, seeds and metrics."""
