"""Keeps what the demo showed, for the README: its table as text, pictures of it and of `ravenctl status`."""

import re
from io import StringIO
from pathlib import Path

from rich.console import Console, RenderableType
from rich.terminal_theme import MONOKAI
from rich.text import Text

from tests.demo.report import WIDTH
from tests.demo.scene import Scene

README = Path(__file__).parents[2] / "README.md"

# Rich's pictures ask a font service on the internet for their font; a README's picture should ask nobody.
_FONT_FACE = re.compile(r"@font-face \{.*?\}\s*", re.DOTALL)


def keep(directory: Path, table: RenderableType, status: str) -> None:
    """Writes demo.txt, demo.svg and status.svg, and the table into the README."""
    directory.mkdir(parents=True, exist_ok=True)
    console = Console(width=WIDTH, file=StringIO(), record=True)
    console.print(table)
    text = "\n".join(line.rstrip() for line in console.export_text(clear=False).rstrip().splitlines())
    (directory / "demo.txt").write_text(text + "\n")
    replace_block(README, "demo", f"```text\n{text}\n```")
    _picture(console, directory / "demo.svg", "make demo")
    said = Text.from_ansi(status)
    console = Console(width=max(map(len, said.plain.splitlines())) + 2, file=StringIO(), record=True)
    console.print(said)
    _picture(console, directory / "status.svg", "ravenctl status")


def replace_block(path: Path, name: str, text: str) -> None:
    """Puts `text` between the comments `name` and `end of name` of a Markdown file."""
    block = re.compile(rf"(<!-- {name} -->\n).*(<!-- end of {name} -->)", re.DOTALL)
    path.write_text(block.sub(lambda found: f"{found[1]}{text}\n{found[2]}", path.read_text()))


def status(scene: Scene) -> str:
    """What `ravenctl status` prints on a terminal, colours and all."""
    machine = scene.gateway.machine
    machine.env["COLUMNS"] = "100"
    machine.env["FORCE_COLOR"] = "1"
    try:
        return scene.gateway.ctl("status", check=False).out
    finally:
        del machine.env["FORCE_COLOR"]


def _picture(console: Console, path: Path, title: str) -> None:
    svg = console.export_svg(title=title, theme=MONOKAI, unique_id=path.stem)
    path.write_text(_FONT_FACE.sub("", svg).replace("Fira Code", "ui-monospace, Menlo, Consolas"))
