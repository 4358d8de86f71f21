"""Rate and delay of a link, as `tc` commands."""

from __future__ import annotations

import re

from ..pipeline.errors import ConfigError

_UNITS = {"bit": 1, "kbit": 10**3, "mbit": 10**6, "gbit": 10**9}
_BURST_S = 0.0025
"""The bucket holds this much time: 31 kB at 100 Mbit/s, 313 kB at 1 Gbit/s. Smaller and the timer's grain costs rate;
larger and a short message is not slowed at all."""
_MIN_BURST_BYTES = 3200
"""Two full packets: a bucket smaller than one packet passes nothing."""
BUCKET_HIDES_BELOW = round(8 * _MIN_BURST_BYTES / _BURST_S)
"""bit/s: below, two packets are a larger part of a message than 2.5 ms are, and a small message would not be slowed at all."""
_QUEUE_S = 0.05
_MIN_QUEUE_BYTES = 32_000
_DELAY_QUEUE_PACKETS = 100_000
"""netem drops what does not fit into its queue, 1000 packets by default: too few for 1 Gbit/s and 20 ms."""


def parse_rate(text: str) -> int:
    """A rate as `tc` spells it ("100mbit", "1.5gbit", "500kbit") in bit/s. Raises ConfigError."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)(bit|kbit|mbit|gbit)", text.strip().lower())
    rate = round(float(match[1]) * _UNITS[match[2]]) if match else 0
    if rate < 1000:
        raise ConfigError(f"link rate {text!r} is not a rate of at least 1kbit; write it like 100mbit or 1gbit")
    return rate


def shape_commands(device: str, rate: int | None, delay_ms: float) -> list[list[str]]:
    """The `tc` commands that give `device` this rate (bit/s, None for unlimited) and one-way delay (netem, 0 for none).

    They replace whatever the device had, so they also change a link in use.
    """
    place = ["dev", device, "root"]
    commands: list[list[str]] = []
    if delay_ms > 0:
        netem = ["netem", "delay", f"{round(delay_ms * 1000)}us", "limit", str(_DELAY_QUEUE_PACKETS)]
        commands.append(["tc", "qdisc", "replace", "dev", device, "root", "handle", "1:", *netem])
        place = ["dev", device, "parent", "1:1", "handle", "10:"]
    queue = ["pfifo", "limit", "1000"]
    if rate is not None:
        burst = max(_MIN_BURST_BYTES, round(rate / 8 * _BURST_S))
        limit = burst + max(_MIN_QUEUE_BYTES, round(rate / 8 * _QUEUE_S))
        queue = ["tbf", "rate", f"{rate}bit", "burst", f"{burst}b", "limit", f"{limit}b"]
    commands.append(["tc", "qdisc", "replace", *place, *queue])
    return commands
