"""How well a score tells positives from negatives: the ROC curve, the area under it, and a threshold for a wanted recall."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ..pipeline.errors import ConfigError, UsageError

_Scores = npt.NDArray[np.float64]


class Roc(NamedTuple):
    """One point per distinct score, and (0, 0) first; both rates rise to 1."""

    false_positive_rate: _Scores
    true_positive_rate: _Scores
    thresholds: _Scores
    """What a score has to reach at each point; infinity first."""

    @property
    def auc(self) -> float:
        """Area under the curve by trapezia: the chance that a positive scores above a negative, ties counting a half."""
        heights = (self.true_positive_rate[1:] + self.true_positive_rate[:-1]) / 2
        return float((np.diff(self.false_positive_rate) * heights).sum())


def roc_curve(scores: npt.ArrayLike, positives: npt.ArrayLike) -> Roc:
    """Of `scores` [N], higher for positives, and `positives` bool [N]. Raises ConfigError: there is not one of each kind."""
    values, truth = np.asarray(scores, np.float64), np.asarray(positives, np.bool_)
    num_positives = int(truth.sum())
    if num_positives in (0, len(truth)):
        missing = "without" if num_positives else "with"
        raise ConfigError(
            f"none of the {len(truth)} images is one {missing} an object, so that a filter cannot be judged; give others"
        )
    order = np.argsort(-values, kind="stable")
    values, truth = values[order], truth[order]
    # Equal scores pass or fail together: only the last of them is a point of the curve.
    ends = np.append(np.flatnonzero(np.diff(values)), len(values) - 1)
    hits = np.cumsum(truth)[ends]
    return Roc(
        np.concatenate([[0.0], (ends + 1 - hits) / (len(truth) - num_positives)]),
        np.concatenate([[0.0], hits / num_positives]),
        np.concatenate([[np.inf], values[ends]]),
    )


def threshold_for_recall(scores: npt.ArrayLike, positives: npt.ArrayLike, recall: float) -> float:
    """The threshold in [0, 1] at which at least this share of the positives scores as much or more, and as few negatives as
    possible do. It lies midway to the next lower score, so that another engine's rounding does not matter.

    `scores` [N] in [0, 1], `positives` bool [N], `recall` in (0, 1]. Raises ConfigError as `roc_curve`.
    """
    roc = roc_curve(scores, positives)
    # The shares are exact multiples of 1 / positives; what was written in decimals is not.
    wanted = recall - 1e-9
    at = int(np.argmax(roc.true_positive_rate >= wanted))
    lower = roc.thresholds[at + 1] if at + 1 < len(roc.thresholds) else 0.0
    return float((roc.thresholds[at] + lower) / 2)


def draw_roc(roc: Roc, threshold: float, path: Path) -> None:
    """The curve as PNG, with the point at `threshold`. Raises UsageError without matplotlib."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise UsageError("matplotlib is not installed; pip install 'splitrail[bench]'") from error
    figure = Figure(figsize=(4.4, 4.2), layout="constrained")
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], color="0.8")
    axes.plot(roc.false_positive_rate, roc.true_positive_rate, label=f"AUC {roc.auc:.3f}")
    at = int(np.flatnonzero(roc.thresholds >= threshold)[-1])
    point = (roc.false_positive_rate[at], roc.true_positive_rate[at])
    axes.plot(*point, "o", label=f"threshold {threshold:.3f}: recall {point[1]:.3f}")
    axes.set(xlabel="empty frames that pass", ylabel="frames with objects that pass", xlim=(0, 1), ylim=(0, 1))
    axes.legend(loc="lower right")
    partial = path.with_suffix(".partial.png")
    figure.savefig(partial, dpi=120)
    os.replace(partial, path)
