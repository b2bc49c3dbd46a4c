"""What may reach a terminal: much of what Raven shows was said by other hosts, and is text, not orders."""

from typing import Final

import msgspec

UNPRINTABLE: Final = "\N{REPLACEMENT CHARACTER}"


def printable(text: str) -> str:
    """`text` with a mark for whatever a terminal could take for an order, a control or format character."""
    return text if text.isprintable() else "".join(c if c.isprintable() else UNPRINTABLE for c in text)


def printable_lines(text: str) -> str:
    """The same, of several lines."""
    return "\n".join(map(printable, text.split("\n")))


def json_text(value: object) -> str:
    """`value` as indented JSON, in which such characters are escaped; a reader gets them back."""
    text = msgspec.json.format(msgspec.json.encode(value), indent=2).decode()
    return "".join(c if c.isprintable() or c == "\n" else _escaped(c) for c in text)


def _escaped(character: str) -> str:
    units = character.encode("utf-16-be")  # RFC 8259, section 7: above U+FFFF a pair
    return "".join(f"\\u{units[at] << 8 | units[at + 1]:04x}" for at in range(0, len(units), 2))
