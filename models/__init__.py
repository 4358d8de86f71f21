"""The detectors in torch: where they may be cut, official weights, export to a bundle."""

from importlib.util import find_spec

from ..pipeline.errors import UsageError

if find_spec("torch") is None:
    raise UsageError("torch is not installed; pip install 'splitrail[torch]'")
