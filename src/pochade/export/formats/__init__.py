"""The forms in which the networks of a model are written: one file for each runtime, ``base`` has what they share."""
