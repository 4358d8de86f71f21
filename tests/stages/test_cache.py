"""Where things are kept between runs."""

from pathlib import Path

import pytest

from splitrail.stages.cache import cache_folder


@pytest.mark.parametrize(
    ("variable", "expected"), [("/tmp/caches", "/tmp/caches/splitrail"), ("", None), ("relative", None)]
)
def test_the_cache_is_where_xdg_says(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, variable: str, expected: str | None
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", variable)
    assert cache_folder() == (Path(expected) if expected else tmp_path / ".cache" / "splitrail")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == tmp_path / ".cache" / "splitrail"
    assert not cache_folder().exists()
