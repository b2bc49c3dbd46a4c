"""Tests of `bench`: the arithmetic of its table, and the server it measures with."""
