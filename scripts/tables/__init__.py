"""Tables of what was measured, for ``figures.py``: a record of JSON in, Markdown out."""
