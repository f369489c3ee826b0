"""The rules of a catalogue, one family per file. The docstring of a rule is its text in docs/catalogue/rules.md."""
