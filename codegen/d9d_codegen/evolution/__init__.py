"""How a catalogue changes from one edition to the next, and whom each change breaks."""
