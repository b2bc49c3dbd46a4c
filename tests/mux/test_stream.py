"""When the record of a stream can go."""

from itertools import product

from raven.mux.codes import Priority
from raven.mux.events import StreamId
from raven.mux.flow import ReceiveBuffer, WindowBudget
from raven.mux.stream import Stream


def test_over_is_when_nobody_can_ask_any_more() -> None:
    flags = ("fin_sent", "fin_received", "eof_read", "closed", "reset")
    for values in product([False, True], repeat=len(flags)):
        state = dict(zip(flags, values, strict=True))
        for held in (0, 5):
            buffer = ReceiveBuffer(WindowBudget(1000, least=100), window=100, window_max=100)
            stream = Stream(StreamId(1), True, Priority.BULK, buffer)
            for name, value in state.items():
                setattr(stream, name, value)
            if held:
                buffer.put_untrusted(memoryview(bytes(held)))
            reader_done = state["eof_read"] or state["closed"]
            if state["reset"]:
                # What arrived, and then its end if it was said, is still the reader's.
                expected = not held and (state["eof_read"] or not state["fin_received"])
            else:
                expected = state["fin_sent"] and state["fin_received"] and reader_done
            assert stream.over is expected, (state, held)
