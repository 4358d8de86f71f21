"""TensorRT by capability: what its three live API generations share is here, what they do not is an adapter each."""
