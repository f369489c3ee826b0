"""The collaborators of the loops, one a file."""
