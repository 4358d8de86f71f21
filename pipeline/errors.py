"""Every error this package raises.

    SplitrailError            the run ends, exit code 1
    |-- UsageError            the user can mend it: one sentence with the remedy, exit code 2
    |   |-- ConfigError       a configuration, placement or hostfile that does not fit
    |   |-- BundleError       a bundle that is missing, damaged or of another version
    |   |-- SourceError       a source that cannot be opened
    |   |-- SinkError         an output that cannot be written
    |   |-- EngineError       an engine that is missing or refuses a graph
    |   `-- HostError         a host that does not answer, or has another version
    |-- MessageError          bytes from another rank that do not parse
    |-- StallError            nothing moved for `stall_timeout_s`
    |-- PeerError             another rank failed; it has told the reason itself
    `-- FrameError            this one frame cannot be done; the run goes on and counts it as failed

Errors of foreign libraries are translated where they are called, never further up.
"""

from __future__ import annotations


class SplitrailError(Exception):
    """Root of all errors here; `exit_code` is what the process ends with."""

    exit_code = 1


class UsageError(SplitrailError):
    """Something the user can mend. The text is one sentence and names the remedy."""

    exit_code = 2


class ConfigError(UsageError):
    """A configuration, placement or hostfile that does not fit."""


class BundleError(UsageError):
    """A bundle that is missing, damaged, or of another version."""


class SourceError(UsageError):
    """A source that cannot be opened."""


class SinkError(UsageError):
    """An output that cannot be written."""


class EngineError(UsageError):
    """An engine that is not installed, or that refuses a graph."""


class HostError(UsageError):
    """A host that does not answer, or that has another version of MPI or of this package."""


class MessageError(SplitrailError):
    """Bytes from another rank that are not a message of ours."""


class StallError(SplitrailError):
    """Nothing moved for `stall_timeout_s`."""


class PeerError(SplitrailError):
    """Another rank failed; it has reported the reason itself, so this one stays silent."""


class FrameError(SplitrailError):
    """This one frame cannot be done. The lane marks its packet FAILED with this text and goes on."""
