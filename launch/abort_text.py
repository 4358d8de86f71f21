"""What Open MPI prints when a job ends badly, as one sentence.

It prints paragraphs between two lines of dashes on its standard error, worded a little differently by each version, and
mixes them with the lines of the ranks.
"""

from __future__ import annotations

import re

_RULE = re.compile(r"-{50,}")
_CHATTER = re.compile(r"\[[\w.-]+:\d+\]|(mpirun|prterun|mpiexec): Forwarding signal")
"""Open MPI's own lines outside a paragraph: `[host:pid] ...`."""

_MAX_LINES = 40
"""No paragraph of Open MPI's is longer: it was a rank that printed a line of dashes."""

_DOCTOR = "check it with 'splitrail doctor'"
_SENTENCES: tuple[tuple[str, str], ...] = (
    # A rank's end; the first of these that happened is printed first.
    (
        r"process rank (?P<rank>\d+) with PID \d+ on node (?P<host>\S+) exited on "
        r"signal (?P<signal>\d+)(?: \((?P<name>[^)]*)\))?",
        "rank {rank} on host {host} ended on signal {signal} ({name})",
    ),
    (
        r'process rank (?P<rank>\d+) with PID \d+ on node (?P<host>\S+) calling "abort"',
        "rank {rank} on host {host} ended the run with MPI_Abort",
    ),
    (r"MPI_ABORT was invoked on rank (?P<rank>\d+)", "rank {rank} ended the run with MPI_Abort"),
    (r"Process name: \[.*?,(?P<rank>\d+)\] Exit code: (?P<code>\d+)", "rank {rank} ended with exit code {code}"),
    # A job that could not start.
    (
        r"Executable: (?P<path>.+?) Node: (?P<host>\S+)",
        "host {host} cannot execute {path}; name its interpreter with python= in the hostfile",
    ),
    (
        r"A daemon failed to report back.*Remote host: (?P<host>\S+)",
        f"host {{host}} does not answer, or cannot start Open MPI's daemon; {_DOCTOR}",
    ),
    (
        r"lost communication with a remote daemon.*Remote daemon *: \S+ on node (?P<host>\S+)",
        f"host {{host}} was lost during the run; {_DOCTOR}",
    ),
    (
        r"unable to reliably start one or more daemons",
        f"a host does not answer, or cannot start Open MPI's daemon; {_DOCTOR}",
    ),
    (r"(ORTE|PRTE) daemon has unexpectedly failed", f"a host was lost during the run; {_DOCTOR}"),
    (
        r"processes (are )?unable to reach each other",
        "the ranks cannot reach each other; give the network between the hosts as '#: network=' in the hostfile",
    ),
    (
        r"(?:No network interfaces were found|no available interfaces were found)",
        "this machine has no network interface that is up, not even the loopback; bring it up: ip link set lo up",
    ),
    (r"process returned a non-zero exit code", "a rank ended with an error"),
)
"""Pattern in a paragraph, its white space made single blanks -> sentence. The first that fits counts."""


class AbortText:
    """Reads mpirun's standard error line by line and keeps the paragraphs apart from what the ranks say."""

    def __init__(self) -> None:
        self._paragraph: list[str] | None = None
        self._paragraphs: list[str] = []

    def is_chatter(self, line: str) -> bool:
        """Whether this line is Open MPI's and not a rank's."""
        text = line.strip()
        if _RULE.fullmatch(text):
            if self._paragraph:
                self._paragraphs.append(" ".join(" ".join(self._paragraph).split()))
                self._paragraph = None
            else:
                self._paragraph = []
            return True
        if self._paragraph is not None and len(self._paragraph) < _MAX_LINES:
            self._paragraph.append(text)
            return True
        self._paragraph = None
        return _CHATTER.match(text) is not None

    def sentence(self) -> str | None:
        """Why the job ended, or None where Open MPI said nothing. The most telling paragraph wins, not the first."""
        said = list(self._paragraphs)
        if self._paragraph:
            said.append(" ".join(" ".join(self._paragraph).split()))
        for pattern, sentence in _SENTENCES:
            for text in said:
                match = re.search(pattern, text)
                if match:
                    return sentence.format(**{key: value or "unknown" for key, value in match.groupdict().items()})
        # Something we have no words for: its own first sentence.
        return re.split(r"(?<=[.:!]) ", said[0])[0].rstrip(".:") if said else None
