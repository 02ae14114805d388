"""``veridict backfill``: judging an archive of images again, as a Ray Data job that can be resumed."""
