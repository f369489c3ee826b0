"""The loops: their events, what users plug into them, their parts, and their runs."""
