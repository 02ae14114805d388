"""``veridict bench``: latency and throughput of the served detector and of other ways to serve it."""
