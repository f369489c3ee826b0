"""A laboratory with its own catalogue."""
