"""veridict bench-explain: what explanations cost, and whether they point at what was planted."""
