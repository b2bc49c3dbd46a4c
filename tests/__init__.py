"""Tests mirror the tree: tests/x/test_y.py covers raven/x/y.py."""
