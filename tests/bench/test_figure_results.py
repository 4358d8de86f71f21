"""The figure of accuracy over bytes."""

from __future__ import annotations

import pytest

from splitrail.bench.figures.results import Line, Point, best_points, draw_accuracy_over_bytes
from splitrail.bench.figures.style import to_png

_SETTINGS = (Point(1000, 0.3, 1_000_000), Point(100, 0.2, 500_000), Point(500, 0.15), Point(2000, 0.3))


def test_the_best_points_are_those_that_nothing_cheaper_reaches() -> None:
    assert [setting.num_bytes for setting in best_points(_SETTINGS)] == [100, 1000]
    same = (Point(100, 0.1), Point(100, 0.2))
    assert best_points(same) == [same[1]]


@pytest.mark.parametrize("only_best", [False, True])
def test_a_line_joins_its_points_by_bytes(only_best: bool) -> None:
    lines = [Line("ours", _SETTINGS), Line("JPEG", _SETTINGS[:2], is_rival=True), Line("nothing", ())]
    figure = draw_accuracy_over_bytes(lines, teacher=0.5, only_best=only_best)
    (axes,) = figure.axes
    # The empty ones are for the legend.
    teacher, ours, rival = (line for line in axes.get_lines() if len(line.get_xdata()))
    assert set(teacher.get_ydata()) == {50.0}
    wanted = [100, 1000] if only_best else [100, 500, 1000, 2000]
    assert list(ours.get_xdata()) == wanted
    assert list(rival.get_ydata()) == [20.0, 30.0]
    assert rival.get_linestyle() == "--"
    assert axes.get_ylim()[1] > 50
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    assert names == ["teacher, nothing lost on the way", "ours", "JPEG"]
    assert to_png(figure).startswith(b"\x89PNG")


def test_the_ends_of_a_line_say_what_the_edge_computes() -> None:
    figure = draw_accuracy_over_bytes([Line("ours", _SETTINGS[:2])], with_macs=True)
    assert {text.get_text() for text in figure.axes[0].texts} == {"1.0 MMAC", "0.5 MMAC"}
