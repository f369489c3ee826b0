# Generated from catalogue.yaml by `d9d-catalogue generate`; edit the catalogue, not this file.
# Digests: catalogue 8c1a54d6edcef41c, body 22ecee19d6804073
"""Events and their contexts, a module for each loop that triggers them."""
