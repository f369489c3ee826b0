"""The numbers of a run: reduced over processes, and told to people and files."""
