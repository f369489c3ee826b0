"""What the compiler of catalogues does, as specifications."""
