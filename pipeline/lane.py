"""One loop of a rank: inbound -> stages -> outbound. A plain loop in a thread of its own.

    clock   rank 0 lane    channel 0->1   rank 1 lane
      0     frame 0
      1     frame 1        frame 0
      2     frame 2        frame 1        frame 0
      3     frame 3        frame 2        frame 1        <- steady state

Nothing of this overlap is written here: a lane computes one frame at a time, and the channel behind `outbound` carries
frame n-1 while the lane computes frame n.
"""

from __future__ import annotations

import threading

from .clock import now_ns
from .endpoint import Inbound, Outbound
from .errors import PeerError
from .halt import Halt
from .packet import Kind
from .stage import Chain
from .switch import Switch


class Lane:
    """Runs in its own thread from `start` until the inbound ends or the run halts."""

    def __init__(self, name: str, inbound: Inbound, chain: Chain | Switch, outbound: Outbound, halt: Halt) -> None:
        self.name = name
        self.chain = chain
        self._inbound = inbound
        self._outbound = outbound
        self._halt = halt
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._doing = "has not started"
        self._since_ns = now_ns()
        self._has_frame = False

    def start(self) -> None:
        """Start the lane's thread."""
        self._thread.start()

    def join(self, timeout_s: float | None = None) -> bool:
        """Wait for the lane to end; False when it is still at work after `timeout_s`."""
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def state(self) -> str:
        """What the lane does now and for how long, for the message of a stall."""
        doing = f"computes stage {self.chain.current}" if self.chain.current else self._doing
        return f"lane {self.name} {doing} for {(now_ns() - self._since_ns) / 1e9:.1f} s"

    def held_s(self) -> float:
        """How long the lane has been at the same step with a frame in its hands, s; 0 while it waits for input."""
        if not self._has_frame:
            return 0.0
        return (now_ns() - self._since_ns) / 1e9

    def _enter(self, doing: str) -> None:
        self._doing = doing
        self._since_ns = now_ns()

    def _run(self) -> None:
        try:
            self._loop()
        except PeerError:
            pass  # somebody else failed first and has told why
        except BaseException as error:
            self._halt.stop(error)
        finally:
            self._has_frame = False
            self._enter("is closing")
            for close in (self._inbound.close, self.chain.close, self._outbound.close):
                try:
                    close()
                except PeerError:
                    pass
                except BaseException as error:
                    self._halt.stop(error)
            self._enter("has ended")

    def _loop(self) -> None:
        specs_of = self.chain.specs_of
        while True:
            self._halt.check()
            self._has_frame = False
            self._enter("waits for input")
            packet = self._inbound.receive()
            if packet is None:
                return
            frame = packet.frame
            self._enter(f"waits for room to send frame {frame}")
            self._has_frame = True
            if packet.kind is Kind.FRAME:
                packet.targets = self._outbound.reserve(packet, specs_of(packet.setting))
            self._enter(f"computes frame {frame}")
            self.chain.process(packet)
            self._enter(f"waits to send frame {frame}")
            self._outbound.send(packet)
            self._halt.moved()
