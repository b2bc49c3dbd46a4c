"""How findings look: one line each within 80 columns, what to try below it, and the verdict at the end."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Iterable

import msgspec
from rich.text import Text

from raven.cli import render
from raven.diagnosis.finding import Finding, Verdict, decide, in_order
from raven.diagnosis.judge import count

_COLOURS = {"ok": "green", "note": "yellow", "unknown": "yellow", "broken": "bold red"}
_INDENT = 21  # columns before the text: the result's and the hop's
_WIDTH_MIN, _WIDTH_PIPE = 60, 80


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What `-o json` prints."""

    verdict: Verdict
    findings: list[Finding]


def show(findings: Iterable[Finding], *, json: bool) -> int:
    """Prints findings and verdict; the exit code."""
    ordered = in_order(findings)
    verdict = decide(ordered)
    if json:
        render.print_json(Report(verdict=verdict, findings=ordered))
        return verdict.exit_code
    width = max(_WIDTH_MIN, render.console().width if render.is_terminal() else _WIDTH_PIPE)
    for finding in ordered:
        _print_finding(finding, width)
    _print("", width)
    if verdict.well:
        said = "all well, as far as it can be seen from here"
        if verdict.unknown:
            said = (
                f"nothing is broken that can be seen from here, {count(verdict.unknown, 'thing')} cannot be"
            )
        _print(f"verdict: {said}", width, indent=9, style="green")
        return 0
    about = f" {verdict.about}" if verdict.about else ""
    _print(f"verdict: the first broken hop is {verdict.hop}{about}", width, style="bold red")
    _print(f"why:     {verdict.why}", width, indent=9)
    _print(f"try:     {verdict.next}", width, indent=9)
    if verdict.broken > 1:
        more = count(verdict.broken - 1, "more finding")
        _print(f"         {more} of something broken; look again when this one is mended", width)
    return verdict.exit_code


def _print_finding(finding: Finding, width: int) -> None:
    about = f"{finding.about}: " if finding.about else ""
    lines = _wrapped(f"{finding.result:<8} {finding.hop:<12}{about}{finding.said}", width, _INDENT)
    first = Text(lines[0])
    first.stylize(_COLOURS[finding.result], 0, len(finding.result))
    _write(first)
    for line in lines[1:]:
        _write(Text(line))
    if finding.next:
        _print(" " * _INDENT + f"try: {finding.next}", width, indent=_INDENT + 5)


def _print(text: str, width: int, *, indent: int = 0, style: str = "") -> None:
    for line in _wrapped(text, width, indent):
        _write(Text(line, style=style))


def _wrapped(text: str, width: int, indent: int) -> list[str]:
    """Lines of at most `width`; an address or path longer than that stays whole, to be copied."""
    return textwrap.wrap(
        text,
        width,
        subsequent_indent=" " * indent,
        break_long_words=False,
        break_on_hyphens=False,
        drop_whitespace=True,
        replace_whitespace=False,
    ) or [""]


def _write(line: Text) -> None:
    render.harmless(line)
    if render.is_terminal():
        render.console().print(line, soft_wrap=True)
    else:
        sys.stdout.write(line.plain + "\n")
