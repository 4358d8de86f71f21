"""A pycuda without a GPU. Its device memory is the host's; `driver.py` says what it is strict about."""
