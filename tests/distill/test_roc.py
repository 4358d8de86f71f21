from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from splitrail.distill.roc import draw_roc, roc_curve, threshold_for_recall
from splitrail.pipeline.errors import ConfigError

_SCORES = [0.9, 0.8, 0.7, 0.6, 0.5, 0.4]
_POSITIVES = [True, True, False, True, False, False]


def test_a_curve_made_by_hand() -> None:
    roc = roc_curve(_SCORES, _POSITIVES)
    assert roc.true_positive_rate == pytest.approx([0, 1 / 3, 2 / 3, 2 / 3, 1, 1, 1])
    assert roc.false_positive_rate == pytest.approx([0, 0, 0, 1 / 3, 1 / 3, 2 / 3, 1])
    assert roc.thresholds.tolist() == [np.inf, *_SCORES]
    # Of the nine pairs of a positive and a negative eight are in the right order.
    assert roc.auc == pytest.approx(8 / 9)


@pytest.mark.parametrize(
    ("scores", "positives", "auc"),
    [
        ([0.9, 0.1], [True, False], 1.0),
        ([0.1, 0.9], [True, False], 0.0),
        ([0.5, 0.5], [True, False], 0.5),
        ([0.5, 0.5, 0.5, 0.9], [True, False, False, True], 0.75),
        ([0.2, 0.2, 0.8, 0.8], [True, False, True, False], 0.5),
    ],
    ids=["right", "wrong", "tied", "partly tied", "tied in two groups"],
)
def test_areas_and_ties(scores: list[float], positives: list[bool], auc: float) -> None:
    assert roc_curve(scores, positives).auc == pytest.approx(auc)


@given(st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=2, max_size=40))
def test_the_area_is_the_chance_that_a_positive_scores_higher(pairs: list[tuple[int, bool]]) -> None:
    scores = np.array([score / 5 for score, _ in pairs])
    positives = np.array([positive for _, positive in pairs])
    if positives.all() or not positives.any():
        return
    difference = scores[positives][:, None] - scores[~positives][None]
    chance = (difference > 0).mean() + (difference == 0).mean() / 2
    assert roc_curve(scores, positives).auc == pytest.approx(chance)


@pytest.mark.parametrize(("recall", "threshold"), [(1.0, 0.55), (2 / 3, 0.75), (0.67, 0.55), (0.5, 0.75), (0.1, 0.85)])
def test_the_threshold_lies_below_the_last_positive_that_must_pass(recall: float, threshold: float) -> None:
    assert threshold_for_recall(_SCORES, _POSITIVES, recall) == pytest.approx(threshold)


@given(
    st.lists(st.tuples(st.floats(0, 1, width=32), st.booleans()), min_size=2, max_size=40),
    st.floats(0.01, 1),
)
def test_the_threshold_keeps_the_recall_and_a_higher_one_would_not(
    pairs: list[tuple[float, bool]], recall: float
) -> None:
    scores, positives = np.array([score for score, _ in pairs]), np.array([positive for _, positive in pairs])
    if positives.all() or not positives.any():
        return
    threshold = threshold_for_recall(scores, positives, recall)
    assert 0 <= threshold <= 1
    assert (scores[positives] >= threshold).mean() >= recall - 1e-6
    kept = scores[scores >= threshold].min()
    assert (scores[positives] > kept).mean() < recall


def test_all_of_one_kind_cannot_be_judged() -> None:
    with pytest.raises(ConfigError, match="none of the 2 images is one without an object"):
        roc_curve([0.1, 0.2], [True, True])
    with pytest.raises(ConfigError, match="with an object"):
        roc_curve([0.1, 0.2], [False, False])


def test_the_curve_is_drawn(tmp_path: Path) -> None:
    draw_roc(roc_curve(_SCORES, _POSITIVES), 0.55, tmp_path / "roc.png")
    assert (tmp_path / "roc.png").read_bytes().startswith(b"\x89PNG")
