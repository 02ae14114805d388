"""veridict loadtest: open-loop load through the client, held to thresholds."""
