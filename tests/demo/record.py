"""Keeps what the demo showed, for the README: its table as text, pictures of it and of `ravenctl status`."""

import re
from io import StringIO
from pathlib import Path

from rich.console import Console, RenderableType
from rich.terminal_theme import MONOKAI
from rich.text import Text

from tests.demo.report import WIDTH
from tests.demo.scene import Scene

# Rich's pictures ask a font service on the internet for their font; a README's picture should ask nobody.
_FONT_FACE = re.compile(r"@font-face \{.*?\}\s*", re.DOTALL)


def keep(directory: Path, table: RenderableType, status: str) -> None:
    """Writes demo.txt, demo.svg and status.svg."""
    directory.mkdir(parents=True, exist_ok=True)
    console = Console(width=WIDTH, file=StringIO(), record=True)
    console.print(table)
    (directory / "demo.txt").write_text(console.export_text(clear=False).rstrip() + "\n")
    _picture(console, directory / "demo.svg", "make demo")
    text = Text.from_ansi(status)
    console = Console(width=max(map(len, text.plain.splitlines())) + 2, file=StringIO(), record=True)
    console.print(text)
    _picture(console, directory / "status.svg", "ravenctl status")


def status(scene: Scene) -> str:
    """What `ravenctl status` prints on a terminal, colours and all."""
    machine = scene.gateway.machine
    machine.env["FORCE_COLOR"] = "1"
    try:
        return scene.gateway.ctl("status", check=False).out
    finally:
        del machine.env["FORCE_COLOR"]


def _picture(console: Console, path: Path, title: str) -> None:
    svg = console.export_svg(title=title, theme=MONOKAI, unique_id=path.stem)
    path.write_text(_FONT_FACE.sub("", svg).replace("Fira Code", "ui-monospace, Menlo, Consolas"))
