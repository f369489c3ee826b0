# Generated from catalogue.yaml by `d9d-catalogue generate`; edit the catalogue, not this file.
# Digests: catalogue dcf7381942b880ee, body 22ecee19d6804073
"""Events and their contexts, a module for each loop that triggers them."""
