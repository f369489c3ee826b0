# Generated from catalogue.yaml by `d9d-catalogue generate`; edit the catalogue, not this file.
"""Events and their contexts, a module for each loop that triggers them."""
