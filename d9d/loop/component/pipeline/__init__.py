"""A model that is cut into stages, on the schedules of torch."""
