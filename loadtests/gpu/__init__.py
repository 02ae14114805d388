"""veridict gpu-check: everything that only a GPU can show."""
