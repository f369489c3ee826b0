"""The samples of a step: which they are, how they are read, and how they reach the device."""
