"""docs/opening.md: every line for Python or the shell runs as it stands, and gives what the page says it gives."""

from __future__ import annotations

import ast
import re
import shlex
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from starlette.testclient import TestClient

from tests.readers.golden import Golden, tile_around
from tests.stories.command_line import command_line

PAGE = Path(__file__).parents[2] / "docs" / "opening.md"
TEXT = PAGE.read_text(encoding="utf-8")
SECTIONS = re.split(r"^## ", TEXT, flags=re.MULTILINE)[1:]
FENCED = re.compile(r"^```(\w+)\n(.*?)^```$", flags=re.MULTILINE | re.DOTALL)


class Told(ast.NodeTransformer):
    """Makes of each line that ends in ``# → …`` a comparison of what it gives with what is said there."""

    def __init__(self, block: str) -> None:
        self.lines = block.splitlines()

    def visit_Expr(self, node: ast.Expr) -> ast.Expr:
        said = self.lines[(node.end_lineno or 1) - 1].partition("# → ")[2]
        if said:
            call = ast.Call(func=ast.Name("_told", ast.Load()), args=[ast.Constant(said), node.value], keywords=[])
            node.value = ast.copy_location(call, node.value)
        return node


def run_python(block: str) -> None:
    def told(said: str, given: object) -> None:
        assert str(given) == said

    tree = ast.fix_missing_locations(Told(block).visit(ast.parse(block)))
    exec(compile(tree, "docs/opening.md", "exec"), {"_told": told})


@pytest.fixture
def desk(golden: Golden, zones: Golden, versioned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder where the page's lines run: in it the mosaics it speaks of."""
    for name, mosaic in (("map.zarr", golden.path), ("zones.zarr", zones.path), ("versioned", versioned)):
        (tmp_path / name).symlink_to(mosaic, target_is_directory=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.usefixtures("desk")
@pytest.mark.parametrize("section", SECTIONS, ids=[section.partition("\n")[0] for section in SECTIONS])
def test_the_lines_of_a_section_run(
    section: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    resmap = command_line(monkeypatch, capsys)
    for language, block in FENCED.findall(section):
        if language == "python":
            run_python(block)
        elif language == "bash":
            for line in block.splitlines():
                program, *words = shlex.split(line)
                assert program == "resmap"
                assert resmap(*words).status == 0


def test_the_address_of_the_tile_server_gives_a_tile(golden: Golden) -> None:
    from titiler.xarray.main import app

    (address,) = re.findall(r"^http://localhost:8000(/tiles/.*)$", TEXT, flags=re.MULTILINE)
    x, y, z, _, _ = tile_around(golden.places[0])
    parts = urlsplit(address.replace("{z}/{x}/{y}", f"{z}/{x}/{y}"))
    asked = parse_qs(parts.query) | {"url": [golden.url]}
    with TestClient(app) as client:
        answer = client.get(parts.path, params=asked)
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "image/png"


def test_the_pictures_of_the_page_are_there() -> None:
    pictures = re.findall(r"!\[[^]]+\]\(([^)]+)\)", TEXT)
    assert pictures
    assert all((PAGE.parent / picture).is_file() for picture in pictures)
