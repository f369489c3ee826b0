"""The checks of the plugin, one file each. `d9d.mypy.dispatch` lists them, `d9d.mypy.diagnostics` has their codes."""
