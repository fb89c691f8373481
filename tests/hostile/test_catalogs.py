"""Whatever a catalog says, it is taken for what it says or refused in a sentence; and it leads nowhere it may not."""

from __future__ import annotations

import gzip
import json
import os
import tracemalloc
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from shapely.geometry import box

from catalogs.fetch import Fetch
from catalogs.footprints import footprint_of
from catalogs.hrefs import check_href
from catalogs.items import items_from_stac
from catalogs.search import Query, search
from catalogs.snapshot import freeze, thaw
from mapper.errors import CatalogError, MapperError
from mapper.imagery import Item
from tests.catalogs.examples import stac_item
from tests.hostile.catalogs import DATES, PUBLIC, STRANGE_IDS, Json, bodies, good_item, page, wrong_items
from tests.hostile.outcome import outcome
from tests.hostile.servers import Reply, said_by
from tests.servers import Route, landing, scripted_api

WORLD = box(-180, -90, 180, 90)
QUICK = Fetch(backoff_s=0.001, read_timeout_s=1.0, connect_timeout_s=2.0, attempts=2)
FEW = ("null", "a number", "a text", "a list", "an object", "a huge number")
"""Of all that can be wrong, what stands for its kind: the rest is left to the fuzzer."""


def found(place: str | Path, *, fetch: Fetch = QUICK) -> Sequence[Json]:
    return search(Query(catalog=str(place), collections=(), area=WORLD), fetch=fetch)


def taken(place: str, *, bands: tuple[str, ...] = ("red", "nir"), frozen: bool = True) -> list[Item]:
    """The items, by the way that a plan takes: searched for, frozen, thawed, judged."""
    docs = found(place)
    return items_from_stac(
        thaw(freeze(docs)) if frozen else docs, bands=bands, judge=partial(check_href, catalog=PUBLIC)
    )


class TestOneThingWrong:
    @pytest.mark.parametrize("one_in", [2, pytest.param(1, marks=pytest.mark.chaos)])
    def test_an_item_with_any_wrong_value_is_taken_or_refused_in_a_sentence(self, one_in: int) -> None:
        # Of half of them: each place with every other kind, those that the place before it had not.
        cases = [case for n, case in enumerate(wrong_items(FEW)) if (n + n // len(FEW)) % one_in == 0]
        assert len(cases) > 400 // one_in
        refused = 0
        routes: dict[str, Route] = {f"/{n}.json": json.dumps(doc).encode() for n, (_, doc) in enumerate(cases)}
        with scripted_api(routes) as api:
            for n, (name, _) in enumerate(cases):
                answer = outcome(partial(taken, f"{api.url}/{n}.json", frozen=n % 15 == 0))
                refused += isinstance(answer, MapperError)
                if not isinstance(answer, MapperError):
                    assert len(answer) == 1, name
                    (item,) = answer
                    assert item.footprint.is_valid, name
                    for band in item.bands:
                        assert band.asset.href.startswith("https://93.184.216.34/"), name
            assert len(api.requests) == len(cases)  # and nothing else was asked for
        assert 100 // one_in < refused < len(cases) - 100 // one_in

    @pytest.mark.parametrize("name", bodies())
    def test_what_is_no_document_is_the_catalog_s_fault(self, name: str, tmp_path: Path) -> None:
        body = bodies()[name]
        (tmp_path / "item.json").write_bytes(body)
        with said_by({"/item.json": Reply(body=body)}) as server:
            for place in (f"{server.url}/item.json", tmp_path / "item.json"):
                error = outcome(partial(found, place))
                assert isinstance(error, MapperError), place

    def test_of_a_key_given_twice_the_last_counts(self, tmp_path: Path) -> None:
        text = json.dumps(good_item()).replace('"id": "good"', '"id": "first", "id": "last"')
        (tmp_path / "item.json").write_text(text)
        assert [doc["id"] for doc in found(tmp_path / "item.json")] == ["last"]

    def test_what_is_no_number_is_no_cloud_cover(self, tmp_path: Path) -> None:
        text = json.dumps(good_item()).replace('"eo:cloud_cover": 10.0', '"eo:cloud_cover": {"of": NaN}')
        (tmp_path / "item.json").write_text(text)
        (item,) = taken(str(tmp_path / "item.json"))
        assert item.cloud_cover is None

    @pytest.mark.parametrize("name", STRANGE_IDS, ids=ascii)
    def test_a_strange_id_stays_what_it_is_and_leads_nowhere(self, name: str) -> None:
        with scripted_api({"/item.json": {**good_item(), "id": name}}) as api:
            (item,) = taken(f"{api.url}/item.json")
            assert item.id == name
            assert len(api.requests) == 1

    @pytest.mark.parametrize("name", DATES)
    def test_a_date_is_read_or_refused(self, name: str) -> None:
        written, is_one = DATES[name]
        doc = stac_item(properties={"datetime": written})
        with scripted_api({"/item.json": doc}) as api:
            answer = outcome(partial(found, f"{api.url}/item.json"))
        assert isinstance(answer, CatalogError) is not is_one

    @pytest.mark.parametrize(
        "fields",
        [
            {"proj:shape": [0, 0]}, {"proj:shape": [-5, 5]}, {"proj:shape": [10**30] * 2}, {"proj:shape": [1, 2, 3]},
            {"proj:transform": [0] * 6}, {"proj:transform": [1, 2]}, {"proj:transform": ["a"] * 6},
            {"proj:transform": [1e308] * 6}, {"proj:code": "EPSG:0"}, {"proj:code": "javascript:1"},
            {"proj:code": None, "proj:epsg": -1}, {"proj:code": None, "proj:epsg": 10**12},
            {"proj:code": None, "proj:epsg": 1e300}, {"proj:code": None, "proj:wkt2": "PROJCS[" * 1000},
            {"proj:code": None, "proj:projjson": {"type": "ProjectedCRS", "base_crs": {"base_crs": {}}}},
            {"proj:code": None, "proj:wkt2": "/etc/passwd["},
        ],
        ids=str,
    )  # fmt: skip
    def test_a_place_that_is_none_is_left_for_the_file_to_tell(self, fields: Json) -> None:
        with scripted_api({"/item.json": stac_item(properties=fields)}) as api:
            answer = outcome(partial(taken, f"{api.url}/item.json", bands=("red",)))
        if not isinstance(answer, MapperError):
            assert all(band.asset.placement is None or band.asset.placement.shape for band in answer[0].bands)


class TestWhereItLies:
    RING = ((179.0, -17.0), (-179.0, -17.0), (-179.0, -16.0), (179.0, -16.0), (179.0, -17.0))

    def spellings(self) -> dict[str, Json]:
        """A scene across the antimeridian, as three producers write it, and by its box alone."""
        beyond = [[x % 360, y] for x, y in self.RING]
        before = [[x - 360 if x > 0 else x, y] for x, y in self.RING]
        halves = [box(179, -17, 180, -16), box(-180, -17, -179, -16)]
        split = {"type": "MultiPolygon", "coordinates": [[list(map(list, half.exterior.coords))] for half in halves]}
        wrapped = [179.0, -17.0, -179.0, -16.0]
        return {
            "split": {"geometry": split, "bbox": wrapped},
            "split, with the box of all longitudes": {"geometry": split, "bbox": [-180, -17, 180, -16]},
            "with a jump": {"geometry": {"type": "Polygon", "coordinates": [self.RING]}, "bbox": wrapped},
            "with a jump, and no box": {"geometry": {"type": "Polygon", "coordinates": [self.RING]}, "bbox": None},
            "beyond 180": {"geometry": {"type": "Polygon", "coordinates": [beyond]}, "bbox": [179, -17, 181, -16]},
            "before -180": {"geometry": {"type": "Polygon", "coordinates": [before]}, "bbox": [-181, -17, -179, -16]},
            "a box": {"geometry": None, "bbox": wrapped},
            "a box of six values": {"geometry": None, "bbox": [179, -17, 0, -179, -16, 900]},
        }

    def test_every_spelling_of_the_antimeridian_is_the_same_place(self) -> None:
        places = {name: footprint_of({**stac_item(), **fields}) for name, fields in self.spellings().items()}
        for name, place in places.items():
            assert place.equals(places["split"]), name
            assert place.area == pytest.approx(2.0)
            assert place.bounds[0] >= -180
            assert place.bounds[2] <= 180

    @pytest.mark.parametrize("south", [-90.0, 89.0])
    def test_a_pole_is_a_place(self, south: float) -> None:
        doc = stac_item(bounds=(-180.0, south, 180.0, south + 1))
        assert footprint_of(doc).area == pytest.approx(360.0)

    @pytest.mark.parametrize(
        "fields",
        [
            {"geometry": None, "bbox": None}, {"geometry": None, "bbox": []}, {"geometry": None, "bbox": [1, 2, 3]},
            {"geometry": None, "bbox": [0, float("nan"), 1, 1]}, {"geometry": {}, "bbox": None},
            {"geometry": {"type": "Polygon", "coordinates": []}, "bbox": None},
            {"geometry": {"type": "Polygon", "coordinates": [[[0, 0], [1, 1e999], [1, 1], [0, 0]]]}, "bbox": None},
            {"geometry": {"type": "Blob", "coordinates": [1]}, "bbox": None},
            {"geometry": {"type": "Point", "coordinates": ["a", "b"]}, "bbox": None},
            {"geometry": {"type": "GeometryCollection", "geometries": [{}]}, "bbox": None},
        ],
        ids=str,
    )  # fmt: skip
    def test_what_is_no_place_is_refused(self, fields: Json) -> None:
        assert isinstance(outcome(lambda: footprint_of({**stac_item(), **fields})), CatalogError)


def pages(**more: Callable[[str], Any]) -> Callable[[str], dict[str, Route]]:
    """The routes of an API whose pages these are."""
    return lambda url: {"/": landing(url, posts=False), **{f"/{name}": answer(url) for name, answer in more.items()}}


class TestPages:
    SCENES = tuple(stac_item(f"scene-{n}") for n in range(6))

    def asked(self, routes: Callable[[str], dict[str, Route]], *, most: int = 12) -> Any:
        with scripted_api(routes) as api, scripted_api({}) as other:
            answer = outcome(lambda: [doc["id"] for doc in found(api.url)])
            assert len(api.requests) <= most
            assert not other.requests
        return answer

    def test_a_circle_of_three_is_an_error(self) -> None:
        scenes = self.SCENES
        routes = pages(
            search=lambda url: page(scenes[0], following=f"{url}/b"),
            b=lambda url: page(scenes[1], following=f"{url}/c"),
            c=lambda url: page(scenes[2], following=f"{url}/search"),
        )
        error = self.asked(routes)
        assert isinstance(error, CatalogError)
        assert "do not end" in error.what

    def test_pages_without_end_are_an_error_not_a_wait(self) -> None:
        def endless(url: str) -> dict[str, Route]:
            def answer(request: Any) -> Json:
                return page(
                    self.SCENES[0], following=f"{url}/search?page={int(request.query.get('page', ['0'])[0]) + 1}"
                )

            return {"/": landing(url, posts=False), "/search": answer}

        error = self.asked(endless)
        assert isinstance(error, CatalogError)
        assert "do not end" in error.what

    def test_an_empty_page_that_leads_on_is_not_the_last(self) -> None:
        routes = pages(
            search=lambda url: page(following=f"{url}/b"), b=lambda url: page(*self.SCENES[:2], following=f"{url}/c"),
            c=lambda url: page(),
        )  # fmt: skip
        assert self.asked(routes) == ["scene-0", "scene-1"]

    def test_an_item_that_stands_on_two_pages_is_taken_once_as_it_stood_first(self) -> None:
        changed = stac_item("scene-0", properties={"eo:cloud_cover": 99})
        routes = pages(
            search=lambda url: page(*self.SCENES[:2], following=f"{url}/b"),
            b=lambda url: page(changed, self.SCENES[2]),
        )
        with scripted_api(routes) as api:
            docs = {doc["id"]: doc for doc in found(api.url)}
        assert sorted(docs) == ["scene-0", "scene-1", "scene-2"]
        assert docs["scene-0"]["properties"]["eo:cloud_cover"] == 10.0

    @pytest.mark.parametrize("matched", [0, 1, 3, -1, None, "3", 10**30, [3]])
    def test_a_wrong_number_of_matches_is_no_news_where_no_item_repeats(self, matched: Any) -> None:
        routes = pages(search=lambda url: page(*self.SCENES[:3], numberMatched=matched))
        assert self.asked(routes) == ["scene-0", "scene-1", "scene-2"]

    def test_pages_that_repeat_in_place_of_the_rest_are_an_error(self) -> None:
        routes = pages(
            search=lambda url: page(*self.SCENES[:2], following=f"{url}/b", numberMatched=4),
            b=lambda url: page(*self.SCENES[:2], numberMatched=4),
        )
        assert isinstance(self.asked(routes), CatalogError)

    @pytest.mark.parametrize(
        "following",
        ["http://127.0.0.2:1/", "//127.0.0.2:1/", "http://169.254.169.254/", "file:///etc/passwd", "ftp://a/",
         "data:,x", "javascript:1", "/vsicurl/x\x00", "http://[::1", "http://user:pass@127.0.0.1/", {"a": 1}, 7, "",
         "a" * 9000],
        ids=lambda value: ascii(value)[:40],
    )  # fmt: skip
    def test_a_next_page_elsewhere_is_never_asked_for(self, following: Any) -> None:
        routes = pages(search=lambda url: page(self.SCENES[0], following=following))
        answer = self.asked(routes)
        assert isinstance(answer, CatalogError) or answer == ["scene-0"]

    @pytest.mark.parametrize(
        "root", ["http://169.254.169.254/", "file:///etc/", "http://127.0.0.1@169.254.169.254/", "ftp://a/", "http://["]
    )
    def test_the_root_that_a_collection_names_is_judged_too(self, root: str) -> None:
        links = [{"rel": "items", "href": "items"}, {"rel": "root", "href": root}]
        with scripted_api({"/c": {"type": "Collection", "id": "c", "links": links}}) as api:
            assert isinstance(outcome(lambda: found(f"{api.url}/c")), MapperError)


class TestAnswers:
    SMALL = replace(QUICK, page_limit_bytes=2**20, table_limit_bytes=2**20)

    @pytest.mark.parametrize("layers", [1, 2])
    def test_a_bomb_is_put_away_before_it_has_unfolded(self, layers: int) -> None:
        bomb = b" " * 2**27
        for _ in range(layers):
            bomb = gzip.compress(bomb, 6)
        headers = {"Content-Encoding": ", ".join(["gzip"] * layers)}
        with said_by({"/item.json": Reply(body=bomb, headers=headers)}) as server:
            tracemalloc.start()
            try:
                error = outcome(lambda: found(f"{server.url}/item.json", fetch=self.SMALL))
                _, peak = tracemalloc.get_traced_memory()
            finally:
                tracemalloc.stop()
        assert isinstance(error, CatalogError)
        assert "larger than 1 MiB" in error.what
        assert peak < 16 * 2**20  # the limit, a piece on its way, and what the test itself holds

    def test_a_body_without_end_is_cut_at_the_limit(self) -> None:
        with said_by({"/item.json": Reply(endless=True)}) as server:
            error = outcome(lambda: found(f"{server.url}/item.json", fetch=self.SMALL))
        assert isinstance(error, CatalogError)
        assert "larger than" in error.what

    @pytest.mark.parametrize("part", ["head", "body"])
    def test_a_server_that_says_a_byte_at_a_time_is_given_up(self, part: str) -> None:
        patience = replace(QUICK, answer_timeout_s=0.4, attempts=1)
        doc = json.dumps(good_item()).encode()
        reply = Reply(body=doc, pause_s=0.05, pause_in=part)
        with said_by({"/item.json": reply}) as server:
            error = outcome(lambda: found(f"{server.url}/item.json", fetch=patience))
        assert isinstance(error, CatalogError)
        assert "no whole answer in 0.4 s" in error.what

    @pytest.mark.parametrize(
        "wait", ["²", "-1", "soon", "1e9", "99999999999999999999", "Wed, 21 Oct 2015 07:28:00 GMT", ""]
    )
    def test_any_wish_to_be_asked_later_is_borne(self, wait: str) -> None:
        once = replace(QUICK, attempts=1)
        with said_by({"/item.json": Reply(status=503, headers={"Retry-After": wait})}) as server:
            error = outcome(lambda: found(f"{server.url}/item.json", fetch=once))
        assert isinstance(error, CatalogError)

    @pytest.mark.parametrize("status", [201, 204, 206, 300, 304, 400, 404, 410, 418, 451, 500, 501, 505, 599])
    def test_any_status_is_an_answer_or_a_sentence(self, status: int) -> None:
        with said_by({"/item.json": Reply(status=status, body=b"\x1b[2Jno")}) as server:
            assert isinstance(outcome(lambda: found(f"{server.url}/item.json")), MapperError)

    def test_a_document_that_links_to_a_pipe_does_not_wait_for_it(self, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "pipe.json")
        for href in ("pipe.json", "/dev/zero", "."):
            links = [{"rel": "item", "href": href}]
            (tmp_path / "catalog.json").write_text(json.dumps({"type": "Catalog", "id": "c", "links": links}))
            with ThreadPoolExecutor(1) as asking:
                answer = asking.submit(outcome, partial(found, tmp_path / "catalog.json")).result(10)
            assert isinstance(answer, CatalogError)
