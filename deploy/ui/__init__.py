"""``veridict ui``: a page on which people look at answers and decide."""
