"""Training: the face CNN, the text tower, low-rank tuning of CLIP's image tower."""
