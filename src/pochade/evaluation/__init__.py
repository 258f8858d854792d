"""Figures that say how good a generator is, and the report that holds them."""
