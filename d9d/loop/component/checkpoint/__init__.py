"""The state of a job on disk: taken, kept, found, given back."""
