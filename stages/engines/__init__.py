"""One file per inference engine; the contract is in `stages/engine.py`."""
