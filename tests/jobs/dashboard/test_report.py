"""A run as one file: whole in itself, honest about what is missing, and safe whatever things are called."""

from __future__ import annotations

import base64
import hashlib
import io
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jobs.dashboard.beside import PICTURE_BYTES, Beside, Found, small_enough
from jobs.dashboard.report import LARGEST_BYTES, POLICY, html, rendered, values
from jobs.dashboard.views import FailureGroup, RunLine
from jobs.ledger import RunFolder, run_names
from tests.jobs.dashboard.fakes import DONE, HELD, LIVE, QUEUED, FakeQueries, gpu, happened, line, page
from tests.jobs.dashboard.hostile import CAUGHT, HOSTILE
from tests.jobs.dashboard.telemetry_rows import told_over_time
from tests.stories.command_line import Resmap
from tests.stories.world import World, mapped

NOTHING_BESIDE = Beside(no_picture="The map cannot be drawn.")

TAGS = frozenset(
    "html head meta title style body svg defs pattern path rect text main header p h1 h2 h3 q dl div dt dd small "  # noqa: SIM905 reads better than forty strings
    "section figure img figcaption table caption thead tbody tr th td ul li b ol span footer pre code".split()
)
"""All that a report is made of."""


class Read(HTMLParser):
    """A document as a browser takes it: elements with their attributes, and the text."""

    def __init__(self, document: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self._said: list[str] = []
        self.feed(document)

    @property
    def text(self) -> str:
        """All words, one space between two."""
        return " ".join(" ".join(self._said).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))

    def handle_data(self, data: str) -> None:
        self._said.append(data)

    def addresses(self) -> set[str]:
        """Where the document leads to."""
        leading = {"href", "src", "action", "data", "srcset", "poster", "background", "xlink:href"}
        return {value for _, attributes in self.elements for name, value in attributes.items() if name in leading}


@pytest.fixture(scope="module")
def finished(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The mosaic of a run that is over."""
    mosaic = tmp_path_factory.mktemp("finished") / "map.zarr"
    mapped(world.job(mosaic, compute={"usd_per_gpu_hour": 0.7}))
    return mosaic


@pytest.fixture
def nobody_knows(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A registry in which there is nothing, and a folder to write to."""
    monkeypatch.setenv("RESMAP_REGISTRY", f"sqlite:///{tmp_path}/empty.db")
    monkeypatch.chdir(tmp_path)


@pytest.mark.usefixtures("nobody_knows")
def test_a_finished_run_is_reported_from_its_mosaic_alone(finished: Path, resmap: Resmap) -> None:
    (run,) = run_names(str(finished))
    said = resmap("report", finished)
    assert (said.status, said.out.strip()) == (0, f"{run}.html")
    read = Read(Path(f"{run}.html").read_text())
    shown = [attributes["src"] for tag, attributes in read.elements if tag == "img"]
    assert [uri.partition(",")[0] for uri in shown] == ["data:image/png;base64"]
    with Image.open(io.BytesIO(base64.b64decode(shown[0].partition(",")[2]))) as picture:
        assert picture.width > 400
    for told in ("small world", "what is red", "✓ done", "29 % of the pixels of finished tiles", "colour/1", "local-0"):
        assert told in read.text
    assert "Their time, from beginning to end" in read.text


@pytest.mark.usefixtures("nobody_knows")
def test_what_it_tells_is_what_the_ledger_tells(finished: Path, resmap: Resmap) -> None:
    told = resmap("report", finished, "--json").document
    entries = RunFolder(str(finished), *run_names(str(finished))).states().values()
    present, seen, asked = (
        sum(values) for values in zip(*((sum(e.present_px), e.seen_px, e.asked_px) for e in entries), strict=True)
    )
    assert told["page"]["progress"]["done"] == sum(entry.state == "done" for entry in entries)
    assert [prompt["share"] for prompt in told["found"]] == [pytest.approx(present / seen)]
    assert told["unobserved"] == pytest.approx((asked - seen) / asked)


@pytest.mark.usefixtures("nobody_knows")
def test_for_machines_no_file_is_written_unless_one_is_named(finished: Path, resmap: Resmap) -> None:
    assert resmap("report", finished, "--json").document["report"] is None
    assert not list(Path().glob("*.html"))
    assert resmap("report", finished, "--json", "--out", "kept.html").document["report"] == "kept.html"
    assert Path("kept.html").is_file()


@pytest.mark.usefixtures("nobody_knows")
def test_a_file_that_is_there_stays_unless_forced(finished: Path, resmap: Resmap) -> None:
    Path("kept.html").write_text("mine")
    assert resmap("report", finished, "--out", "kept.html").status == 2
    assert Path("kept.html").read_text() == "mine"
    assert resmap("report", finished, "--out", "kept.html", "--force").status == 0
    assert Path("kept.html").read_text() != "mine"


@pytest.mark.usefixtures("nobody_knows")
@pytest.mark.parametrize("words", [["no-such-run"], ["{mosaic}", "--run", "other"]])
def test_a_run_that_is_not_there_is_a_sentence(finished: Path, resmap: Resmap, words: list[str]) -> None:
    said = resmap("report", *(word.format(mosaic=finished) for word in words))
    assert said.status == 3
    assert said.complaint
    assert said.remedy
    assert not list(Path().glob("*.html"))


@pytest.mark.parametrize("of", [LIVE, DONE], ids=["running", "done"])
def test_a_report_asks_nobody_for_anything_and_runs_nothing(of: object) -> None:
    document = rendered(page(LIVE if of is LIVE else DONE), replace(NOTHING_BESIDE, picture=b"\x89PNG..."))
    read = Read(document)
    assert {tag for tag, _ in read.elements} <= TAGS
    assert all(address.startswith("data:image/") for address in read.addresses())
    assert not [name for _, attributes in read.elements for name in attributes if name.startswith("on")]
    outside = re.findall(r"url\((?!#)|@import|(?:https?:)?//[\w.]+", document.partition("</style>")[0])
    assert outside == []


def test_its_policy_allows_exactly_its_style() -> None:
    document = rendered(page(), NOTHING_BESIDE)
    (style,) = re.findall(r"<style>(.*?)</style>", document, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    (policy,) = [
        attributes["content"]
        for _, attributes in Read(document).elements
        if attributes.get("http-equiv") == "Content-Security-Policy"
    ]
    assert policy == POLICY
    assert f"style-src 'sha256-{digest}';" in policy
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert not [attributes for _, attributes in Read(document).elements if "style" in attributes]


def test_a_run_under_way_tells_what_is_left() -> None:
    text = Read(rendered(page(), NOTHING_BESIDE)).text
    assert "22 to 35 minutes left" in text
    assert "At completion" in text
    assert "At completion" not in Read(rendered(page(DONE), NOTHING_BESIDE)).text


def test_a_run_without_telemetry_says_so_and_one_with_it_shows_where_its_time_went() -> None:
    missing = "No telemetry was kept with this run"
    with_it = rendered(page(), replace(NOTHING_BESIDE, over_time=told_over_time(workers=3)))
    assert missing in rendered(page(), NOTHING_BESIDE)
    assert missing not in with_it
    assert with_it.count('class="chart strip"') == 1 + 3


@pytest.mark.parametrize(("of", "why"), [(QUEUED, "not planned yet"), (HELD, "cannot be read now")])
def test_a_run_whose_files_are_not_there_is_reported_as_far_as_it_is_known(of: RunLine, why: str) -> None:
    text = Read(html(FakeQueries(), of.id)).text
    assert why in text
    assert of.state in text
    assert "No telemetry was kept" not in text


def test_what_nobody_knows_is_a_dash() -> None:
    bare = replace(NOTHING_BESIDE, found=(Found(name="a", expression="roads", threshold=0.5, share=None),))
    text = " ".join(Read(rendered(page(replace(DONE, began=None, updated=None)), bare)).text.split())
    assert "roads –" in text
    assert "Unobserved –" in text
    assert "Read back –" in text


def test_two_hundred_hostile_names_are_text() -> None:
    for begin in range(0, len(HOSTILE), 40):
        names = HOSTILE[begin : begin + 40]
        held = page(line(name=names[0], mosaic=names[1]))
        cause = FailureGroup(cause=names[2], count=1, first_tile=1, first_name=names[3], first_error=names[4],
                             fix=names[5], retryable=False, tiles=())  # fmt: skip
        held = replace(
            held,
            gpus=tuple(replace(gpu(0, pace=1), worker=name, host=name, device=name) for name in names),
            failures=(cause,),
            prompts=tuple((name, name) for name in names),
            events=tuple(replace(happened(1)[0], text=name) for name in names),
            model=names[6],
        )
        known = replace(
            NOTHING_BESIDE,
            job={"imagery": {"catalog": names[7], "collections": list(names)}, "model": {"weights": names[8]}},
            found=tuple(Found(name=name, expression=name, threshold=None, share=0.5) for name in names),
            versions=dict.fromkeys(names, names[9]),
            over_time=told_over_time(workers=2, names=names),
        )
        read = Read(rendered(held, known))
        assert {tag for tag, _ in read.elements} <= TAGS
        assert not [name for _, attributes in read.elements for name in attributes if name.startswith("on")]
        assert read.addresses() == set()
        assert all(CAUGHT not in name for _, attributes in read.elements for name in attributes)


def test_signatures_and_passwords_stay_out_of_it() -> None:
    held = page(line(mosaic="https://user:c4n4ry@maps.example/m.zarr?X-Amz-Signature=c4n4ry"))
    assert "c4n4ry" not in rendered(held, NOTHING_BESIDE)
    assert "c4n4ry" not in str(values(held, NOTHING_BESIDE))


def test_a_report_of_a_thousand_gpus_and_endless_sentences_is_small_enough_to_be_sent() -> None:
    endless = "a" * 100_000
    held = page()
    held = replace(
        held,
        gpus=tuple(replace(gpu(n % 8, pace=1), worker=f"gpu-{n}") for n in range(1000)),
        failures=tuple(replace(held.failures[0], cause=f"E{n}", first_error=endless, fix=endless) for n in range(100)),
        events=tuple(replace(event, text=endless) for event in happened(50)),
        prompts=tuple((f"p{n}", endless) for n in range(16)),
    )
    noise = io.BytesIO()
    Image.fromarray(np.random.default_rng(1).integers(0, 255, (1200, 1000, 3), np.uint8)).save(noise, "PNG")
    known = replace(NOTHING_BESIDE, picture=small_enough(noise.getvalue()), over_time=told_over_time(workers=1000))
    assert len(known.picture) <= PICTURE_BYTES
    document = rendered(held, known)
    assert len(document.encode()) <= LARGEST_BYTES
    assert Read(document).text.count("gpu-") >= 8


def test_it_can_be_printed() -> None:
    style = rendered(page(), NOTHING_BESIDE).partition("@media print")[2].partition("</style>")[0]
    assert "break-inside: avoid" in style
    assert "color-scheme: light" in style
