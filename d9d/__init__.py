"""Training and inference loops for PyTorch, extended through a typed and statically verified Event Bus."""
