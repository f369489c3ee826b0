"""How a job ends before its last step: by a failure, by a wait in vain, or on request."""
