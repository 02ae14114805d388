"""Measuring a detector on labelled images."""
