"""What the lab raises: one sentence for whoever runs the demo or reads a failed test."""


class LabError(Exception):
    """The lab could not do what was asked; the message says what came back instead."""
