"""`splitrail run`: from a configuration to running ranks and a printed summary. Starts mpirun itself."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.console import Console

from ..bench.link_steps import LINK_STEPS
from ..bench.summary import SUMMARY, complete_outputs
from ..bench.table import print_summary
from ..pipeline.errors import ConfigError, HostError
from ..pipeline.placement import Placement
from ..stages.bundle import Bundle
from ..stages.cache import cache_folder
from ..stages.nms_choice import with_nms
from .assemble import Run
from .bench_overlap import eager_limit_for
from .config import RunConfig, bundle_folder
from .hostfile import Host, Hosts
from .link import Link
from .mpirun import MpiInstallation, RankSpec, build_command, detect_mpi
from .mpirun_process import MpirunProcess
from .netns import TwoHosts
from .probe import compare_versions, probe_hosts
from .progress import RunProgress

CONFIG = "run.json"
MPIRUN_LOG = "mpirun.log"
_OWN = "splitrail: "
"""What our own errors begin with; libraries in a rank may say other things."""
_POLL_S = 0.1


def start(
    config: RunConfig,
    *,
    hostfile: Path | None = None,
    link: Link | None = None,
    dry_run: bool = False,
    as_json: bool = False,
    show_table: bool = True,
) -> int:
    """Run and print; returns the exit code: 0, 1 (a rank failed), 2 (mendable) or 130 (interrupted).

    What can be known before mpirun starts is checked here: the placement, the bundle, the hosts and their versions.
    """
    link = link or Link()
    placement = config.resolve_placement()
    bundle = Bundle.load(bundle_folder(config.bundle), verify=False)
    Run.plan(config, placement, bundle)
    with_nms(bundle.postprocess, config.nms_iou)
    installation = detect_mpi()
    out = Path(config.out).absolute()
    if link.netns and hostfile is not None:
        raise ConfigError("--netns makes its own two hosts; leave --hostfile out")
    with _hosts(hostfile, link, out, dry_run) as (hosts, two):
        ranks = _hosts_of_ranks(placement, hosts)
        if two is None and hosts is not None and not ranks[0].is_here:
            raise HostError(
                f"rank 0 belongs on {ranks[0].name} and this is another host; start the run there, where the results go"
            )
        hostnames = {host.name: host.name for host in ranks}
        if hosts is not None and two is None and not dry_run:
            probes = probe_hosts(Hosts(tuple(dict.fromkeys(ranks)), hosts.network, hosts.origin))
            compare_versions(probes)
            hostnames = {name: probe.hostname for name, probe in probes.items()}
        config = config.model_copy(
            update={
                "out": str(out),
                "bundle": str(bundle_folder(config.bundle).absolute()),
                "hosts": tuple(hostnames[host.name] for host in ranks) if hosts is not None else (),
                "cidr": hosts.network if hosts is not None else None,
                "threads": config.threads or (_shared_threads(placement) if two is not None else 0),
                "eager_limit_bytes": _eager_limit(config, placement, bundle),
            }
        )
        command = _command(config, installation, hosts, two, ranks, out / CONFIG)
        if dry_run:
            print(shlex.join(command))
            return 0
        _prepare(out, config)
        is_trained = bool(bundle.trained)
        with link.steps.playing(two, out):
            return _supervise(command, two, out, as_json=as_json, show_table=show_table, is_trained=is_trained)


@contextlib.contextmanager
def _hosts(
    hostfile: Path | None, link: Link, out: Path, dry_run: bool
) -> Iterator[tuple[Hosts | None, TwoHosts | None]]:
    """The hosts of the run: of the hostfile, two on this machine, or None for this machine alone."""
    if link.netns:
        # The far host sees none of this: neither what a run writes nor the bundles a host has been sent.
        hide = [] if dry_run else [out, cache_folder()]
        two = TwoHosts(link.first_rate, link.delay_ms, hide, link.keep, link.steps.slowest)
        if dry_run:
            raise ConfigError("--dry-run cannot show a run over --netns: its hosts do not exist yet")
        with two:
            yield two.hosts, two
    elif hostfile is not None:
        hosts = Hosts.load(hostfile)
        yield (None if all(host.is_here for host in hosts) else hosts), None
    else:
        yield None, None


def _hosts_of_ranks(placement: Placement, hosts: Hosts | None) -> list[Host]:
    """The host of each rank: lines of the hostfile in order, each for as many ranks as it takes."""
    if hosts is None:
        return [Host("localhost")] * placement.num_ranks
    lines = list(hosts)
    if len(lines) > placement.num_ranks:
        lines = lines[: placement.num_ranks]
    # One rank a host while there are hosts; what is left goes to hosts with slots to spare, from the last one on.
    ranks = list(lines)
    spare = [host for host in reversed(lines) for _ in range(host.slots - 1)]
    missing = placement.num_ranks - len(ranks)
    if missing > len(spare):
        raise ConfigError(
            f"placement {placement.name} needs {placement.num_ranks} ranks and {hosts.origin} has "
            f"{len(lines) + len(spare)} slots; add hosts or slots"
        )
    return ranks + spare[:missing]


def _shared_threads(placement: Placement) -> int:
    """Threads of a rank when its host is not a machine of its own."""
    return max(1, (os.cpu_count() or 1) // placement.num_ranks)


def _eager_limit(config: RunConfig, placement: Placement, bundle: Bundle) -> int:
    run = Run.plan(config, placement, bundle)
    largest = [edge.max_message_bytes for edge in run.edges().values()]
    return eager_limit_for(max(largest, default=0))


def _command(
    config: RunConfig,
    installation: MpiInstallation,
    hosts: Hosts | None,
    two: TwoHosts | None,
    ranks: list[Host],
    config_path: Path,
) -> list[str]:
    specs = []
    for number, host in enumerate(ranks):
        program: tuple[str, ...] = (host.python or sys.executable, "-m", "splitrail", "rank")
        if number == 0:
            program += ("--config", str(config_path))
        specs.append(RankSpec(host.name if hosts is not None else None, program))
    prefixes = {host.prefix for host in ranks if host.prefix is not None and not host.is_here}
    if len(prefixes) > 1:
        raise ConfigError("mpirun takes one prefix for all other hosts; install Open MPI in the same folder on them")
    return build_command(
        installation,
        specs,
        network=hosts.network if hosts is not None else None,
        agent=two.agent if two is not None else None,
        prefix=next(iter(prefixes), None),
        eager_limit_bytes=config.eager_limit_bytes,
    )


def _prepare(out: Path, config: RunConfig) -> None:
    """The run's folder with the configuration; results of an earlier run there are removed, so that none is taken for new."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        for pattern in (SUMMARY, MPIRUN_LOG, LINK_STEPS, "journal-rank*.jsonl", "detections.*", "coco_results.json"):
            for old in out.glob(pattern):
                old.unlink()
        shutil.rmtree(out / "frames", ignore_errors=True)
        (out / CONFIG).write_text(config.model_dump_json(indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{out} cannot be written ({error.strerror}); give another folder with --out") from error


def _supervise(
    command: list[str], two: TwoHosts | None, out: Path, *, as_json: bool, show_table: bool, is_trained: bool = True
) -> int:
    console = Console(stderr=as_json)
    said: list[str] = []

    def on_line(line: str, is_error: bool) -> None:
        if is_error and line.startswith(_OWN):
            said.append(line.removeprefix(_OWN))
        print(line, file=sys.stderr if is_error or as_json else sys.stdout, flush=True)

    # The parent prints the table, so rank 0 does not.
    process = MpirunProcess(
        two.near(command) if two is not None else command,
        on_line,
        log_path=out / MPIRUN_LOG,
        env={**os.environ, "SPLITRAIL_STARTED_BY_RUN": "1"},
    )
    interrupted = False
    with process, RunProgress(out, console) as progress:
        while True:
            try:
                code = process.wait(_POLL_S)
                if code is not None:
                    break
                progress.update()
            except KeyboardInterrupt:
                # Before the first journal there is nothing to drain, and ranks may not be able to hear yet.
                if interrupted or not list(out.glob("journal-rank*.jsonl")):
                    process.terminate()
                else:
                    process.stop_gracefully()
                interrupted = True
    if code == 0 and not (out / SUMMARY).exists():
        code = 1  # mpirun's word alone proves nothing: rank 0 makes the summary when all ranks have ended well
    error = None
    if code != 0 and not interrupted:
        error = said[0] if said else process.failure() or f"the ranks did not end well; see {out / MPIRUN_LOG}"
        if not said:
            print(f"{_OWN}{error}", file=sys.stderr)
    summary = _summary(out, error)
    if summary is not None:
        if as_json:
            print(json.dumps(summary, indent=1))
        elif show_table and code in (0, 130):
            print_summary(summary, console)
            if not is_trained:
                console.print(
                    "this detector is untrained: its weights are random, so its boxes and its accuracy mean nothing"
                )
            console.print(f"results in {out}", highlight=False)
    if interrupted:
        return 130
    return code if code in (0, 2) else 1


def _summary(out: Path, error: str | None) -> dict[str, Any] | None:
    """What rank 0 made, or after a crash the same from the journals it left."""
    path = out / SUMMARY
    if path.exists():
        summary: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return summary
    return complete_outputs(out, error) if list(out.glob("journal-rank*.jsonl")) else None
