"""Spans of time as people read them."""


def age(seconds: float) -> str:
    """A span in its largest sensible unit: `3 s`, `12 min`, `5 h`, `9 d`; at least two of any but seconds."""
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{max(0.0, seconds):.0f} s"
