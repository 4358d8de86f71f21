"""TensorRT 11.4.0.106, recorded; see `fake_tensorrt.py`."""

from fake_tensorrt import Generation

Generation("11.4.0.106", bindings=False, flags=False, int64=True, explicit_batch=False, pools=True, monitor=True).fill(
    globals()
)
