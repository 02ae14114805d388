"""Fitting what judges on top of the networks: the token head, fusion weights, thresholds, confidence."""
