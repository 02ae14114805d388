"""``veridict gpu-check``: builds, checks, measures and serves the TensorRT engines on this machine's GPU."""
