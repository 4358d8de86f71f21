"""`splitrail bench profile`: this host's profile for a bundle, as TOML."""

from __future__ import annotations

import os
from pathlib import Path

from rich.console import Console
from rich.table import Table

from ..bench.profile import HostProfile
from ..bench.profile_measure import ProfileMeasurement
from ..stages.bundle import Bundle
from ..stages.cache import cache_folder
from ..stages.engine_choice import check_engine, choose_engine
from . import workshop  # registers the sources and engines that are not in stages  # noqa: F401
from .config import bundle_folder


def profile_verb(
    bundle: str,
    out: Path,
    host: str,
    engine: str,
    device: str,
    threads: int,
    source: str,
    jpeg_quality: int,
    seconds: float,
    coload: bool,
    console: Console,
) -> HostProfile:
    """Measure, write and return the profile. Raises UsageErrors."""
    measurement = prepare(bundle, engine, device, threads, source, jpeg_quality, seconds)
    with console.status("") as status:
        profile = measurement.measure(host, coload=coload, say=lambda what: status.update(f"measuring {what}"))
    profile.save(out)
    return profile


def prepare(
    bundle: str, engine: str, device: str, threads: int, source: str, jpeg_quality: int, seconds: float
) -> ProfileMeasurement:
    """A measurement with the engine chosen as a run chooses it."""
    folder = bundle_folder(bundle)
    manifest = Bundle.load(folder)
    cores = os.cpu_count() or 1
    name, _, precision = engine.partition(":")
    if name == "auto":
        choice = choose_engine(folder, manifest, threads=cores, cache=cache_folder())
    else:
        choice = check_engine(folder, manifest, name, precision or "fp32", threads=cores, cache=cache_folder())
    return ProfileMeasurement(
        folder.absolute(),
        manifest,
        choice.engine,
        choice.precision,
        device,
        threads or cores,
        source,
        jpeg_quality,
        seconds,
    )


def print_profile(profile: HostProfile, out: Path, console: Console) -> None:
    """Every stage with its times."""
    for detector, times in profile.detectors.items():
        table = Table(title=f"{detector} on {profile.host}, {profile.engine}, {profile.threads} thread(s)")
        table.add_column("stage")
        for name in ("median ms", "mean ms", "spread ms", "frames", "under co-load ms"):
            table.add_column(name, justify="right")
        for stage, time in times.stages.items():
            row = [time.solo_ms, time.mean_ms, time.spread_ms]
            table.add_row(
                stage,
                *("-" if value is None else f"{value:.2f}" for value in row),
                str(time.num or "-"),
                "-" if time.coload_ms is None else f"{time.coload_ms:.2f}",
            )
        console.print(table)
    console.print(f"profile in {out}", highlight=False)
