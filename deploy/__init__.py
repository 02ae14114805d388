"""Serving: the code inside Triton's python backend, and the local launcher."""
