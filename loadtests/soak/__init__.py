"""A long run at a steady rate: what a server gains in memory, shared memory, handles and latency."""
