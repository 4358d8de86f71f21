"""Fixtures of the tests of exported bundles."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest


@pytest.fixture
def loaded() -> Iterator[dict[str, Any]]:
    """Engines that `graph_support.run` opens."""
    engines: dict[str, Any] = {}
    yield engines
    for engine in engines.values():
        engine.close()
