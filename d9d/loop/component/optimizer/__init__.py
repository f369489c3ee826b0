"""Optimizers and learning rates for those who bring none of their own."""
