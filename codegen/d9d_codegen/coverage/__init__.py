"""What Python source does with the events of a catalogue: read from its syntax tree, never imported."""
