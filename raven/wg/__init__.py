"""The WireGuard protocol without I/O: a device is fed datagrams, packets and the time, and is drained."""
