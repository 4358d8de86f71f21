"""TensorRT 10.16.1.11, recorded; see `fake_tensorrt.py`."""

from fake_tensorrt import Generation

Generation("10.16.1.11", bindings=False, flags=True, int64=True, explicit_batch=True, pools=True, monitor=True).fill(
    globals()
)
