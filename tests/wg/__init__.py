"""Tests of the WireGuard protocol: units, vectors, and two devices in virtual time."""
