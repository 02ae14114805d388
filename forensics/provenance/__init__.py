"""Where a file says that it comes from: content credentials (C2PA), and traces of generators and cameras."""
