"""Frozen feature extractors, for the perceptual loss and for the evaluation."""
