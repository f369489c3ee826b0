# Generated from catalogue.yaml by `d9d-catalogue generate`; edit the catalogue, not this file.
# Digests: catalogue 0c24fee865d8c15b, body 22ecee19d6804073
"""Events and their contexts, a module for each loop that triggers them."""
