"""Known content: the PDQ hash of a picture, banks of known hashes, and the exact search in them."""
