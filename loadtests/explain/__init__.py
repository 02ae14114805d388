"""``veridict bench-explain``: the cost of explanations, and whether their maps point at a planted manipulation."""
