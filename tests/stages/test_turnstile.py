"""One frame at a time between a source and the sink beside it."""

import threading

from splitrail.pipeline.packet import Packet
from splitrail.stages.turnstile import Turnstile, TurnstileSink


class ListSink:
    def __init__(self):
        self.frames, self.closed = [], False

    def reserve(self, packet, specs):
        return None

    def send(self, packet):
        self.frames.append(packet.frame)

    def close(self):
        self.closed = True


def test_the_next_frame_waits_for_the_result_of_the_one_before():
    turnstile = Turnstile()
    inner = ListSink()
    sink = TurnstileSink(inner, turnstile)
    entered = threading.Event()
    turnstile.enter()

    def second():
        turnstile.enter()
        entered.set()

    thread = threading.Thread(target=second, daemon=True)
    thread.start()
    assert not entered.wait(0.2)
    sink.send(Packet(0, 0, 0, (1, 1)))
    assert entered.wait(5)
    thread.join(5)
    sink.close()
    assert (inner.frames, inner.closed) == ([0], True)
    assert sink.reserve(Packet(1, 0, 0, (1, 1)), None) is None


def test_at_the_end_everybody_is_let_through():
    turnstile = Turnstile()
    turnstile.enter()
    waiting = threading.Thread(target=turnstile.enter, daemon=True)
    waiting.start()
    turnstile.open()
    waiting.join(5)
    assert not waiting.is_alive()
    turnstile.enter()
    turnstile.enter()
