"""The record of one measurement: what was measured, under which circumstances, and whether it may be believed.

A record is written once and never changed: `save` refuses to replace another one, and `load` refuses a file whose content
does not fit its checksum.
"""

from __future__ import annotations

import hashlib
import json
import os
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Literal

import pydantic

from ..pipeline.errors import UsageError
from .percentile import SHOWN
from .scenario import Scenario
from .summary import load_journals, summarize
from .validity import judge_row

SCHEMA_VERSION = 1


class RecordError(UsageError):
    """A record that cannot be read or written."""


class RankRecord(pydantic.BaseModel):
    """One rank and its host."""

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)

    rank: int
    host: str | None
    """None: this rank left no journal to tell."""
    environment: dict[str, Any]
    """Versions, threads, affinity, governor, power mode, congestion control: `host_environment`, before the run."""
    environment_after: dict[str, Any] | None
    """Temperatures, throttling, clocks and load after it; None where the run did not get there."""


class Record(pydantic.BaseModel):
    """One run, as JSON. Keys are never renamed within a schema version."""

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)

    schema_version: Literal[1] = 1
    name: str
    """The cell of a sweep, or what the user calls it."""
    scenario: Scenario | None
    """In the words of MLPerf inference; camera is a source of fixed rate. None: none of these."""
    created: datetime
    """UTC."""
    command: str
    bundle_checksum: str
    git_revision: str | None
    """Of rank 0's package; None where it is installed without its repository."""
    settings: dict[str, Any]
    """The configuration of the run, or the part of it that a sweep varies."""
    valid: bool
    verdict: str
    """valid, or "invalid: reason"."""
    ranks: tuple[RankRecord, ...]
    summary: dict[str, Any]

    @staticmethod
    def of_run(
        out: Path,
        name: str,
        settings: dict[str, Any],
        *,
        scenario: Scenario | None = None,
        shown: tuple[float, ...] = SHOWN[:1],
        created: datetime | None = None,
    ) -> Record:
        """From the journals in `out`, also of a run that failed. `shown` are the percentiles of the delay it will be shown with.

        Raises RecordError where there are no journals."""
        journals = load_journals(out)
        first = {rank: _first(lines, "begin") for rank, lines in journals.items()}
        if not any(first.values()):
            raise RecordError(f"{out} has no journal of a run; give the folder that a run wrote with --out")
        error = next((line["text"] for lines in journals.values() for line in lines if line["e"] == "error"), None)
        if error is None and not all(_first(lines, "end") for lines in journals.values()):
            error = "the run was cut off"
        summary = summarize(journals, error)
        verdict = judge_row(summary, shown)
        begin = first.get(0) or next(facts for facts in first.values() if facts)
        environment = begin.get("environment") or {}
        return Record(
            name=name,
            scenario=scenario,
            created=created or datetime.now(timezone.utc),
            command=environment.get("command") or "",
            bundle_checksum=begin["bundle"],
            git_revision=environment.get("git_revision"),
            settings=settings,
            valid=verdict.valid,
            verdict=str(verdict),
            ranks=tuple(
                RankRecord(
                    rank=rank,
                    host=facts.get("host"),
                    environment=facts.get("environment") or {},
                    environment_after=_first(journals[rank], "end").get("environment"),
                )
                for rank, facts in sorted(first.items())
            ),
            summary=summary,
        )

    def save(self, path: Path) -> None:
        """Write it, whole or not at all. Raises RecordError where `path` exists already."""
        content = self.model_dump(mode="json")
        text = json.dumps({"checksum": _checksum(content), **content}, indent=1) + "\n"
        partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
        try:
            with partial.open("w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            os.link(partial, path)  # unlike a rename it fails where the name is taken
        except FileExistsError as error:
            raise RecordError(f"{path} exists and records are never changed; give another folder") from error
        except OSError as error:
            raise RecordError(f"{path} cannot be written ({error.strerror}); give another folder") from error
        finally:
            partial.unlink(missing_ok=True)

    @staticmethod
    def load(path: Path) -> Record:
        """Raises RecordError: not there, not a record, of another schema version, or changed after it was written."""
        try:
            raw = json.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise RecordError(f"{path} cannot be read ({error.strerror}); give the path of a record") from error
        except ValueError as error:
            raise RecordError(f"{path} is not JSON ({error}); measure again") from error
        if not isinstance(raw, dict) or "schema_version" not in raw:
            raise RecordError(f"{path} is not a record; give the path of a record")
        if raw["schema_version"] != SCHEMA_VERSION:
            raise RecordError(
                f"{path} has schema version {raw['schema_version']} and this splitrail reads {SCHEMA_VERSION}; "
                "read it with the version that wrote it, or measure again"
            )
        checksum = raw.pop("checksum", None)
        if checksum != _checksum(raw):
            raise RecordError(f"{path} was changed after it was written; measure again")
        try:
            return Record.model_validate(raw)
        except pydantic.ValidationError as error:
            raise RecordError(f"{path} is not a record: {error.errors()[0]['loc']}; measure again") from error


def _checksum(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _first(lines: list[dict[str, Any]], name: str) -> dict[str, Any]:
    return next((line for line in lines if line["e"] == name), {})
