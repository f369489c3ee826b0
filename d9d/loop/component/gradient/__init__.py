"""The gradients of a step: gathered, measured, bounded, judged."""
