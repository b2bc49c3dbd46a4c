"""Tests of ravenctl."""
