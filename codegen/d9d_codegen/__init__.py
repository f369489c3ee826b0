"""Compiles `catalogue.yaml` into typed Python modules, API pages and the type checker's index."""
