"""``veridict loadtest``: open-loop load through the client, checked against thresholds."""
