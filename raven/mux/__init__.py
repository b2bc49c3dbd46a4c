"""The stream lane's multiplexer without I/O: frames, credit, scheduling, liveness."""
