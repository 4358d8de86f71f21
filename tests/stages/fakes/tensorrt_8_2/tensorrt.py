"""TensorRT 8.2.1.8, recorded; see `fake_tensorrt.py`."""

from fake_tensorrt import Generation

Generation("8.2.1.8", bindings=True, flags=True, int64=False, explicit_batch=True, pools=False, monitor=False).fill(
    globals()
)
