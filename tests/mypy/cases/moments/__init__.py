"""A small catalogue, laid out as the compiler of `catalogue.yaml` emits one."""
