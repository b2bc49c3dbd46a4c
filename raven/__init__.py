"""Raven: reach nodes and pods at the edge, from the cloud, through connections the edge opens."""

__version__ = "0.1.0"
