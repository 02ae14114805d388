"""Python-backend models inside Triton: ``preprocess``, ``fusion``, and the CPU profile of the networks."""
