"""How an adaptive run chooses the setting of a frame: the contract, and a policy by its name.

model              predicts every setting from what is observed, takes the most accurate one that meets the target
step               goes one step down a ladder of settings when the target is missed, one up when there is room
fixed:SETTING      always the same: fixed:0.5,uint8 (width and wire), fixed:local,1, fixed:offload,75
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from ..pipeline.errors import ConfigError
from .observed import Observed
from .setting import Setting
from .target import Target


@dataclass(frozen=True, slots=True)
class Decision:
    """The setting of the next frame, and why."""

    setting: int
    reason: str = ""
    """One clause for the journal; empty where it stays as it was."""
    is_reachable: bool = True
    """Whether any setting is expected to meet the target now."""


class Policy(Protocol):
    """Asked for every frame by the edge's lane, in frame order. It must return in well under a millisecond."""

    name: str

    def choose(self, seen: Observed, current: int) -> Decision:
        """The setting of the next frame; `current` is that of the one before."""


def open_policy(text: str, settings: Sequence[Setting], target: Target | None) -> Policy:
    """The policy called `text`. Raises ConfigError: there is none of that name, no such setting, or no target to meet."""
    from .policy_fixed import FixedPolicy
    from .policy_model import ModelPolicy
    from .policy_step import StepPolicy

    name, _, which = text.partition(":")
    if name == "fixed":
        return FixedPolicy(settings, which)
    if name not in ("model", "step") or which:
        raise ConfigError(f"--adapt-policy {text!r} is unknown; give model, step, or fixed:WIDTH,WIRE")
    if target is None:
        raise ConfigError(f"the policy {name} needs a target; give --adapt target-fps=15 or target-delay-ms=120")
    return ModelPolicy(settings, target) if name == "model" else StepPolicy(settings, target)
