"""The rules of a catalogue, a file for each thing that they are about."""
