"""veridict bench: latency and throughput of the served detector, beside other ways to serve it."""
