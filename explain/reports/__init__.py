"""Maps as images, and HTML reports."""
