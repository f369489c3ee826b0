"""The checks of the plugin, one file each."""
