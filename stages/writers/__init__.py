"""What becomes of the results: one file per kind of output. `open_writers.py` chooses among them."""
