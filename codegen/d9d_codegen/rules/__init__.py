"""The rules of a catalogue, one family per file; `RULES` in `d9d_codegen.lint` lists them.

The docstring of a rule is its text in docs/catalogue/rules.md.
"""
