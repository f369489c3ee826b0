"""The stages of the model in this process, and what runs them."""
