"""Whatever file a stranger gives us: its pixels, or an error that names it. All in a process that may die of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

import numpy as np
import pytest

from tests.hostile.canaries import Watched, plant
from tests.hostile.children import Child, Said
from tests.hostile.rasters import COARSE_FRAME, FRAME, Case, corpus, truth
from tests.hostile.rasters_disguised import CANARY
from tests.servers import files_over_http

PATIENCE_S = 60.0
"""What one file may take; the slowest take two seconds of a processor, and the machine may be busy."""

MOST_BYTES = 1024**3
"""What reading any one of them may take beyond what the process holds at rest: per reading thread (here two) a block of
``LARGEST_BLOCK_BYTES`` at most, or a cell of ``LARGEST_CELL_BYTES`` with eight times as much to make pixels of it; and
``LARGEST_HEADER_BYTES``, GDAL's cache and its raw blocks once."""

OURS = ("AssetError", "ReadError", "BrokenReadError")
Pixels: TypeAlias = tuple[np.ndarray, np.ndarray]


@dataclass(slots=True)
class Sitting:
    """All files of the corpus, read."""

    cases: dict[str, Case]
    said: dict[str, Said] = field(default_factory=dict)
    views: dict[str, Pixels] = field(default_factory=dict)
    opened: dict[str, list[str]] = field(default_factory=dict)
    """Canaries that were opened over a case, or asked of the server."""

    most_bytes: int = 0


def some_of(cases: list[Case], how: str) -> list[Case]:
    """Those that are read: all, a fifth, or all kinds and a sixth of the damage that falls anywhere in a file."""
    if "a sixth of the damage" in how:
        damage = [case for case in cases if case.name.startswith(("cut-", "flip-"))]
        left_out = {case.name for case in damage} - {case.name for case in damage[::6]}
        return [case for case in cases if case.name not in left_out]
    return cases[::5] if "a fifth" in how else cases


@pytest.fixture(
    scope="module",
    params=[
        "local, a sixth of the damage",
        *(pytest.param(how, marks=pytest.mark.chaos) for how in ("local", "http, a fifth of them", "http")),
    ],
)
def sitting(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sitting]:
    """One child reads them all; it is started again only if one of them kills it."""
    folder, elsewhere = tmp_path_factory.mktemp("strangers"), tmp_path_factory.mktemp("elsewhere")
    with (
        files_over_http(folder) as server,
        Watched(folder, elsewhere) as watched,
        Child(patience_s=PATIENCE_S) as child,
    ):
        done = Sitting(
            {case.name: case for case in some_of(corpus(folder=str(elsewhere), url=server.url), request.param)}
        )
        plant(folder)
        plant(elsewhere)
        watched.opened()
        for case in done.cases.values():
            path, into = case.write(folder), folder / "answer.npz"
            href = str(path) if request.param.startswith("local") else f"{server.url}/{case.file}"
            said = done.said[case.name] = child.ask(
                href=href, bands=case.bands, stretch=case.stretch, coarse=case.coarse, placed=case.placed,
                into=str(into),
            )  # fmt: skip
            asked = [seen.path for seen in server.requests if "canary" in seen.path]
            server.requests.clear()
            done.opened[case.name] = watched.opened() + asked
            done.most_bytes = max(done.most_bytes, said.peak_bytes - child.at_rest_bytes)
            if said.kind == "pixels":
                with np.load(into) as view:
                    done.views[case.name] = view["pixels"], view["valid"]
            path.unlink()
        yield done


def exact(case: Case, view: Pixels) -> bool:
    """Whether a view is what a case's file shows, and its validity what is real of it."""
    valid = np.ones(FRAME.shape, np.bool_) if case.valid is None else case.valid
    pixels = truth(case.bands) if case.pixels is None else case.pixels
    return bool((view[1] == valid).all() and (view[0] == pixels * valid).all())


def came_right(case: Case, said: Said, view: Pixels | None) -> bool:
    """Whether what came of a case's file is what must."""
    refused, right = said.kind in OURS, view is not None and (case.coarse or exact(case, view))
    return {
        "exact": right,
        "refused": refused,
        "honest": refused or right,
        "any": refused or view is not None,
    }[case.must]


def test_there_are_enough_of_them(sitting: Sitting) -> None:
    cut, least = sum(name.startswith("cut-at-") for name in sitting.cases), {100: 10, 500: 20, 700: 64}
    assert any(len(sitting.cases) >= cases and cut >= cuts for cases, cuts in least.items())
    assert len(sitting.cases) < 500 or cut >= 20


def test_every_file_gives_its_pixels_or_an_error_of_ours(sitting: Sitting) -> None:
    wrong = {
        name: (case.must, sitting.said[name].kind, sitting.said[name].what)
        for name, case in sitting.cases.items()
        if not came_right(case, sitting.said[name], sitting.views.get(name))
    }
    assert not wrong


def test_every_error_names_the_item_and_the_file_in_one_readable_sentence(sitting: Sitting) -> None:
    refused = {name: said for name, said in sitting.said.items() if said.kind != "pixels"}
    assert len(refused) > len(sitting.cases) / 3
    for name, said in refused.items():
        assert said.where["item"] == "scene", name
        assert said.where["asset"].endswith(sitting.cases[name].file), name
        assert 10 < len(said.what) < 700, name
        assert said.what.isprintable(), name
        assert said.again == (said.kind != "AssetError"), name


def test_no_file_makes_us_hold_more_than_the_limit(sitting: Sitting) -> None:
    assert 0 < sitting.most_bytes < MOST_BYTES


def test_no_file_makes_us_open_another(sitting: Sitting) -> None:
    assert not {name: names for name, names in sitting.opened.items() if names}


def test_no_pixel_of_another_file_is_ever_shown(sitting: Sitting) -> None:
    named = ("overviews-", "beside-", "disguise-", "metadata-", "placed-by-")
    shown = {name: view for name, view in sitting.views.items() if name.startswith(named)}
    assert len(shown) > len(sitting.cases) // 50
    for name, (pixels, valid) in shown.items():
        assert valid.shape == (COARSE_FRAME if sitting.cases[name].coarse else FRAME).shape
        here = pixels[:, valid]
        assert not here.size or (here == CANARY).mean() < 0.1, name  # one value of 251 is the canary's by chance


def test_the_watch_sees_who_opens_a_canary(tmp_path: Path) -> None:
    plant(tmp_path)
    with Watched(tmp_path) as watched:
        (tmp_path / "canary.tif").read_bytes()
        assert watched.opened() == ["canary.tif"]
