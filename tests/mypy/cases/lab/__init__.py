"""A laboratory with a catalogue of its own."""
