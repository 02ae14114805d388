"""The networks as PyTorch modules, and reading and writing their weights."""
