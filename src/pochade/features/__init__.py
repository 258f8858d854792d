"""Frozen judges of pictures: features for the perceptual loss and for the evaluation."""
