"""What one connection may hold, and for how long; each number with its reason."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What one connection may hold; bytes unless said otherwise. Lengths of frames are in `frames`."""

    streams: int = 1024  # opened by either side; kubectl and Prometheus of one node stay far below
    window_start: int = 256 * 1024  # 20 Mb/s at 100 ms
    window_max: int = 8 * 1024 * 1024  # 200 Mb/s at 200 ms are 5 MB, and a quarter is on its way back
    windows_total: int = 32 * 1024 * 1024  # of all streams: four to eight that run at full speed
    window_least: int = 16 * 1024  # of a new stream when the total is spent; 1024 of them are 16 MiB more
    control_queue: int = 4 * 1024 * 1024  # frames to a peer that reads nothing; four of the longest messages
    datagram_queue: int = 256 * 1024  # 200 ms at 10 Mb/s: more delay than a packet is worth
    grace: float = 0.0  # seconds a connection waits for its next transport; 0: it ends with its transport
