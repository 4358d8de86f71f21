"""What `--adapt` and the table [adapt] of a run's configuration ask for."""

from __future__ import annotations

from typing import Any

import pydantic

from ..pipeline.errors import ConfigError
from ..stages.bundle import Bundle, WireType
from ..stages.policy import open_policy
from ..stages.setting import WAYS, Setting, Way, settings_of, with_accuracy
from ..stages.target import Target
from ..stages.wire import WireForm

_FIXED = "fixed:"


class AdaptConfig(pydantic.BaseModel):
    """As TOML: target_fps, target_delay_ms or both, policy, ways, wires, max_graph_memory_mb."""

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)

    target_fps: float | None = pydantic.Field(None, gt=0)
    target_delay_ms: float | None = pydantic.Field(None, gt=0)
    policy: str = "model"
    """model, step, or fixed:SETTING (`stages/policy.py`)."""
    ways: tuple[Way, ...] = ("split",)
    """Of split, local, offload: with the last two, every rank loads both halves."""
    wires: tuple[WireType, ...] | None = None
    """What a split may travel as; None: what the bundle's table of accuracies has."""
    max_graph_memory_mb: float | None = pydantic.Field(None, gt=0)
    """Files of the graphs a rank has loaded at a time, MB; None: all of them stay loaded."""

    @pydantic.model_validator(mode="after")
    def _has_a_target(self) -> AdaptConfig:
        if self.target is None and not self.policy.startswith(_FIXED):
            raise ValueError("a run adapts to target_fps, target_delay_ms or both, and none of them is given")
        return self

    @property
    def target(self) -> Target | None:
        """None for a fixed policy without one."""
        if self.target_fps is None and self.target_delay_ms is None:
            return None
        return Target(self.target_fps, self.target_delay_ms)

    def settings(self, bundle: Bundle, where: str) -> tuple[Setting, ...]:
        """What the policy may choose from; `where` names the bundle.

        Raises ConfigError or BundleError: there is nothing to choose from, or no policy of that name.
        """
        settings = settings_of(bundle, self.ways, self.wires)
        if not self.policy.startswith(_FIXED):
            settings = with_accuracy(settings, where)
        open_policy(self.policy, settings, self.target)
        return settings


def adapt_options(
    raw: dict[str, Any], target: str, policy: str, ways: str, wires: str, max_graph_memory: float
) -> None:
    """Put the options of `splitrail run` into the table `adapt` of its configuration `raw`; those that are given win.

    Raises ConfigError: a target, way or wire type that is none, or options of an adaptive run without one.
    """
    if not (target or policy or ways or wires or max_graph_memory):
        return
    table = raw.setdefault("adapt", {})
    if not isinstance(table, dict):
        return  # refused with the file's name when the configuration is checked
    if target:
        parsed = Target.parse(target)
        table.pop("target_fps", None)
        table.pop("target_delay_ms", None)
        given = {"target_fps": parsed.fps, "target_delay_ms": parsed.delay_ms}
        table.update({name: value for name, value in given.items() if value is not None})
    if policy:
        table["policy"] = policy
    if ways:
        table["ways"] = list(ways_of(ways))
    if wires:
        table["wires"] = [WireForm.of(wire).name for wire in _items(wires)]
    if max_graph_memory:
        table["max_graph_memory_mb"] = max_graph_memory
    if not {"target_fps", "target_delay_ms"} & set(table) and not str(table.get("policy", "")).startswith(_FIXED):
        raise ConfigError("an adaptive run needs a target; add --adapt target-fps=15 or --adapt target-delay-ms=120")


def ways_of(text: str) -> tuple[Way, ...]:
    """From "split,local". Raises ConfigError."""
    items = _items(text)
    unknown = sorted(set(items) - set(WAYS))
    if unknown:
        raise ConfigError(f"--adapt-ways {unknown[0]!r} is unknown; give one or more of {', '.join(WAYS)}")
    return tuple(way for way in WAYS if way in items)


def _items(text: str) -> list[str]:
    return [item.strip() for item in text.split(",") if item.strip()]
