from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pystac_client
import pytest
from shapely.geometry import Point, box

from catalogs.fetch import Fetch
from catalogs.items import item_from_stac
from catalogs.search import Query, search
from catalogs.snapshot import freeze
from mapper.errors import CatalogError, CredentialsError, EmptySearchError, MapperError, SpecError
from mapper.traffic import TRAFFIC, calls_since
from tests.catalogs.examples import real, stac_collection, stac_item
from tests.servers import Fault, Request, Route, files_over_http, landing, scripted_api, stac_api

HERE = box(10, 50, 11, 51)
QUICK = Fetch(backoff_s=0.001, read_timeout_s=0.5, connect_timeout_s=2)
FILTERS = (
    "http://www.opengis.net/spec/cql2/1.0/conf/cql2-text",
    "http://www.opengis.net/spec/cql2/1.0/conf/basic-cql2",
    "https://api.stacspec.org/v1.0.0/item-search#filter",
)


def names(catalog: str | Path, **query: Any) -> list[str]:
    asked = Query(**{"catalog": str(catalog), "collections": ("fields",), "area": HERE, **query})
    return [doc["id"] for doc in search(asked, fetch=QUICK)]


def write(path: Path, doc: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(doc))
    return path


def page(*docs: Mapping[str, Any], next: Mapping[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    links = [{"rel": "next", **next}] if next else []
    return {"type": "FeatureCollection", "features": list(docs), "links": links, **more}


SCENES = [
    stac_item("later", properties={"datetime": "2024-07-01T00:00:00Z", "eo:cloud_cover": 50}),
    stac_item("b", properties={"datetime": "2024-06-01T00:00:00Z", "eo:cloud_cover": 5}),
    stac_item("a", properties={"datetime": "2024-06-01T00:00:00Z", "eo:cloud_cover": 5}),
    stac_item("elsewhere", bounds=(20.0, 50.0, 21.0, 51.0)),
    stac_item("other", collection="woods"),
    stac_item("range", properties={
        "datetime": None, "start_datetime": "2024-06-10T00:00:00Z", "end_datetime": "2024-06-20T00:00:00Z"}),
]  # fmt: skip


@pytest.fixture(params=["api", "static", "served", "collection", "lines", "table", "served table"])
def catalog(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    """The same scenes, in every kind of catalog."""
    kind = request.param
    children = []
    for name in ("fields", "woods"):
        links = [{"rel": "item", "href": f"./{doc['id']}.json"} for doc in SCENES if doc["collection"] == name]
        write(tmp_path / name / "collection.json", {**stac_collection(name), "links": links})
        children.append({"rel": "child", "href": f"{name}/collection.json"})
    for doc in SCENES:
        write(tmp_path / doc["collection"] / f"{doc['id']}.json", doc)
    top = {"type": "Catalog", "id": "top", "description": "", "stac_version": "1.1.0", "links": children}
    write(tmp_path / "catalog.json", top)
    write(tmp_path / "all.json", page(*SCENES))
    (tmp_path / "lines").write_text("\n".join(map(json.dumps, SCENES)))
    (tmp_path / "table").write_bytes(freeze(SCENES))
    if kind == "api":
        with stac_api(SCENES, [stac_collection("fields"), stac_collection("woods")]) as url:
            yield url
    elif kind in ("served", "served table"):
        with files_over_http(tmp_path) as served:
            yield f"{served.url}/{'table' if kind == 'served table' else 'catalog.json'}"
    else:
        yield tmp_path / {"static": "", "collection": "all.json", "lines": "lines", "table": "table"}[kind]


class TestEveryKindOfCatalog:
    def test_answers_come_by_date_and_name(self, catalog: str) -> None:
        assert names(catalog) == ["a", "b", "range", "later"]

    def test_dates_count_and_a_range_counts_where_it_meets_them(self, catalog: str) -> None:
        assert names(catalog, datetime="2024-06-15/..") == ["range", "later"]

    def test_filters_count(self, catalog: str) -> None:
        assert names(catalog, filter="eo:cloud_cover > 20") == ["later"]

    def test_all_collections_or_some(self, catalog: str) -> None:
        assert names(catalog, collections=("woods",)) == ["other"]
        assert names(catalog, collections=()) == ["a", "b", "other", "range", "later"]

    def test_an_empty_answer_says_which_condition_left_nothing(self, catalog: str) -> None:
        asked: dict[str, dict[str, Any]] = {
            "area": {"area": Point(0, 0)},
            "datetime": {"datetime": "1999"},
            "filter": {"filter": "eo:cloud_cover > 99"},
        }
        for condition, query in asked.items():
            with pytest.raises(EmptySearchError) as caught:
                names(catalog, **query)
            assert caught.value.where["condition"] == condition
            assert condition in caught.value.fix

    def test_an_unknown_collection_is_told_apart_from_an_empty_one(self, catalog: str) -> None:
        with pytest.raises(SpecError, match=r"no collection 'feilds'; it has fields, woods") as caught:
            names(catalog, collections=("feilds", "woods"))
        assert caught.value.fix == "did you mean 'fields'?"

    def test_assets_are_found_from_anywhere(self, catalog: str) -> None:
        query = Query(catalog=str(catalog), collections=("fields",), area=HERE)
        for doc in search(query, fetch=QUICK):
            item = item_from_stac(doc, bands=["red"])
            assert item.bands[0].asset.href == f"https://example.com/{item.id}.tif"


class TestTheQuery:
    @pytest.mark.parametrize(
        "wrong", [{"datetime": "yesterday"}, {"filter": "cloud <"}, {"area": Point()}], ids=["date", "filter", "area"]
    )
    def test_a_wrong_one_is_refused_before_anything_is_asked(self, wrong: dict[str, Any]) -> None:
        with pytest.raises(SpecError):
            names("http://127.0.0.1:9/", **wrong)

    def test_a_place_of_no_known_kind_is_refused(self, tmp_path: Path) -> None:
        for place in (tmp_path / "nothing.json", tmp_path, "ftp://example.com/catalog.json"):
            with pytest.raises(SpecError):
                names(place)


class TestStaticCatalogs:
    def test_relative_hrefs_become_absolute(self, tmp_path: Path) -> None:
        doc = stac_item(assets={"image": {"href": "../pixels/a.tif"}}, collection=None)
        collection = {**stac_collection(), "links": [{"rel": "item", "href": "items/a.json"}]}
        write(tmp_path / "items" / "a.json", doc)
        place = write(tmp_path / "collection.json", collection)
        (found,) = search(Query(catalog=str(place), collections=("fields",), area=HERE))
        assert found["assets"]["image"]["href"] == str(tmp_path / "pixels" / "a.tif")
        assert found["collection"] == "fields"  # the item does not say; the collection that lists it does
        with files_over_http(tmp_path) as served:
            (found,) = search(Query(catalog=f"{served.url}/collection.json", collections=(), area=HERE))
            assert found["assets"]["image"]["href"] == f"{served.url}/pixels/a.tif"

    def test_a_path_may_be_relative(self, tmp_path: Path) -> None:
        write(tmp_path / "item.json", stac_item("a"))
        old = Path.cwd()
        os.chdir(tmp_path)
        try:
            assert names("item.json") == ["a"]
        finally:
            os.chdir(old)

    def test_a_collection_that_is_not_wanted_is_not_looked_into(self, tmp_path: Path) -> None:
        links = [{"rel": "child", "href": f"{name}.json"} for name in ("fields", "woods")]
        write(tmp_path / "catalog.json", {"type": "Catalog", "id": "top", "links": links})
        woods = {**stac_collection("woods"), "links": [{"rel": "item", "href": "item-of-woods.json"}]}
        write(tmp_path / "woods.json", woods)
        write(tmp_path / "fields.json", {**stac_collection(), "links": [{"rel": "item", "href": "a.json"}]})
        write(tmp_path / "a.json", stac_item("a"))
        with files_over_http(tmp_path) as served:
            assert names(f"{served.url}/catalog.json") == ["a"]
            assert not served.asked("/item-of-woods.json")

    def test_links_in_a_circle_end(self, tmp_path: Path) -> None:
        links = [{"rel": "child", "href": "catalog.json"}, {"rel": "child", "href": "./x/../catalog.json"}]
        items = [{"rel": "item", "href": "a.json"}] * 2
        place = write(tmp_path / "catalog.json", {"type": "Catalog", "id": "top", "links": links + items})
        write(tmp_path / "a.json", stac_item("a"))
        assert names(place) == ["a"]

    def test_a_link_to_nothing_is_an_error_not_a_gap(self, tmp_path: Path) -> None:
        links = [{"rel": "item", "href": "a.json"}, {"rel": "item", "href": "lost.json"}]
        write(tmp_path / "a.json", stac_item("a"))
        place = write(tmp_path / "catalog.json", {"type": "Catalog", "id": "top", "links": links})
        with pytest.raises(CatalogError, match="leads nowhere"):
            names(place)
        with files_over_http(tmp_path) as served, pytest.raises(CatalogError, match="lost"):
            names(f"{served.url}/catalog.json")

    @pytest.mark.parametrize("href", ["file:///etc/passwd", "http://169.254.169.254/latest", "vrt://x"])
    def test_a_remote_catalog_cannot_lead_inside(self, tmp_path: Path, href: str) -> None:
        write(tmp_path / "catalog.json", {"type": "Catalog", "id": "x", "links": [{"rel": "item", "href": href}]})
        with files_over_http(tmp_path) as served, pytest.raises(CatalogError):
            names(f"{served.url}/catalog.json")

    def test_a_collection_document_of_an_api_says_where_its_items_are(self) -> None:
        with pytest.raises(EmptySearchError, match="address of its STAC API"):
            names(real("naip/collection.json"), collections=("naip",))

    def test_the_real_catalogs_are_walked(self) -> None:
        world = box(-180, -90, 180, 90)
        assert len(names(real("stactools-sentinel2"), collections=(), area=world)) == 2
        assert len(names(real("stactools-landsat/landsat-c2-l2/collection.json"), collections=(), area=world)) == 5
        colorado = {"area": box(-105, 40, -104, 41), "filter": "eo:cloud_cover < 20"}
        table = real("sentinel-2/1000-sentinel-2-items.parquet")
        assert 50 < len(names(table, collections=("sentinel-2-l2a",), **colorado)) < 640


class TestAnApi:
    def test_a_real_one_answers_as_its_own_client_says(self) -> None:
        lines = real("naip/items.ndjson").read_text().splitlines()
        area = box(-86, 30.9, -85.5, 31.5)
        collection = json.loads(real("naip/collection.json").read_text())
        with stac_api([json.loads(line) for line in lines], [collection]) as url:
            theirs = pystac_client.Client.open(url).search(
                collections=["naip"], intersects=area, datetime="2019/2021", limit=50
            )
            ours = names(url, collections=("naip",), area=area, datetime="2019/2021")
            assert sorted(ours) == sorted(item["id"] for item in theirs.items_as_dicts())
            assert len(ours) > 10
            assert names(f"{url}/collections/naip", collections=(), area=area, datetime="2019/2021") == ours

    def test_a_search_that_widens_asks_for_one_item_and_then_for_all(self) -> None:
        routes = {"/search": page(*SCENES), "/collections/fields": {}}
        with scripted_api(lambda url: {"/": landing(url), **routes}) as api:
            query = Query(catalog=api.url, collections=("fields",), area=HERE)
            found = search(query, fetch=QUICK, around=lambda doc: box(*doc["bbox"]).buffer(15))
            assert [doc["id"] for doc in found] == ["a", "b", "elsewhere", "range", "later"]
            assert [request.body["limit"] == 1 for request in api.asked("/search")] == [True, False]

    def test_where_the_one_item_is_none_that_was_asked_for_all_are_looked_at(self) -> None:
        routes = {"/search": page(SCENES[4], *SCENES[:2]), "/collections/fields": {}}
        seen: list[str] = []

        def around(doc: Mapping[str, Any]) -> Any:
            seen.append(doc["id"])
            return HERE

        with scripted_api(lambda url: {"/": landing(url), **routes}) as api:
            search(Query(catalog=api.url, collections=("fields",), area=HERE), fetch=QUICK, around=around)
        assert seen == ["b"]

    def test_a_filter_is_never_sent_to_a_server_that_would_ignore_it(self) -> None:
        with scripted_api(lambda url: {"/": landing(url), "/search": page(*SCENES), "/collections/fields": {}}) as api:
            assert names(api.url, filter="eo:cloud_cover > 20") == ["later"]
            assert all("filter" not in request.body for request in api.asked("/search"))

    @pytest.mark.parametrize("posts", [True, False])
    def test_a_filter_is_sent_to_a_server_that_knows_it(self, posts: bool) -> None:
        routes = {"/search": page(SCENES[0]), "/collections/fields": {}}
        with scripted_api(lambda url: {"/": landing(url, conforms=FILTERS, posts=posts), **routes}) as api:
            assert names(api.url, filter="eo:cloud_cover > 20") == ["later"]
            (request,) = api.asked("/search")
            sent = request.body or {name: values[0] for name, values in request.query.items()}
            assert (sent["filter"], sent["filter-lang"]) == ("eo:cloud_cover > 20", "cql2-text")

    def test_what_a_server_lets_slip_is_left_out(self) -> None:
        routes = {"/search": page(*SCENES), "/collections/fields": {}}
        with scripted_api(lambda url: {"/": landing(url, conforms=FILTERS), **routes}) as api:
            found = names(api.url, filter="eo:cloud_cover < 20", datetime="2024-06")
            assert found == ["a", "b", "range"]  # not later, elsewhere, other: too cloudy, too far, of the woods

    def test_a_server_that_sorts_is_asked_for_a_stable_order(self) -> None:
        conforms = ["https://api.stacspec.org/v1.0.0/item-search#sort"]
        routes = {"/search": page(*SCENES), "/collections/fields": {}}
        with scripted_api(lambda url: {"/": landing(url, conforms=conforms), **routes}) as api:
            names(api.url)
            sorts = api.asked("/search")[0].body["sortby"]
            assert [order["field"] for order in sorts] == ["properties.datetime", "id"]

    def test_an_area_of_many_corners_is_sent_as_its_box(self) -> None:
        with scripted_api(lambda url: {"/": landing(url), "/search": page(*SCENES), "/collections/fields": {}}) as api:
            names(api.url, area=Point(10, 50).buffer(1, quad_segs=400))
            assert api.asked("/search")[0].body["bbox"] == pytest.approx([9, 49, 11, 51])

    def test_a_server_without_collections_is_believed(self) -> None:
        with scripted_api(lambda url: {"/": landing(url), "/search": page(*SCENES)}) as api:
            assert names(api.url) == ["a", "b", "range", "later"]

    def test_a_server_that_announces_no_classes_is_asked_for_no_more_than_it_need_know(self) -> None:
        def sparse(url: str) -> dict[str, Route]:
            page_of_it = {**landing(url), "conformsTo": None, "links": [{"rel": "search", "href": "./search"}, {}, 1]}
            return {"/": page_of_it, "/search": page(*SCENES), "/collections/fields": {}}

        with scripted_api(sparse) as api:
            assert names(api.url, filter="eo:cloud_cover > 20") == ["later"]
            (request,) = api.asked("/search")
            assert (request.method, set(request.query)) == ("GET", {"collections", "intersects", "limit"})
            assert len(api.asked("/")) == 1

    @pytest.mark.parametrize("href", ["file:///etc/hostname", "file:/etc/hostname", "http://example.com/search"])
    def test_a_search_link_that_names_a_file_or_another_host_is_refused(self, href: str) -> None:
        links = [{"rel": "search", "href": href, "type": "application/geo+json"}]
        with scripted_api(lambda url: {"/": {**landing(url), "links": links}}) as api, pytest.raises(CatalogError):
            names(api.url, collections=())

    def test_a_landing_page_that_is_no_stac_catalog_is_the_catalog_s_fault(self) -> None:
        for lost in ("id", "type", "stac_version"):

            def unfinished(url: str, lost: str = lost) -> dict[str, Route]:
                return {"/": {key: value for key, value in landing(url).items() if key != lost}}

            with scripted_api(unfinished) as api, pytest.raises(CatalogError, match="is not STAC") as caught:
                names(api.url)
            assert caught.value.where["catalog"] == api.url

    def test_a_body_to_merge_is_merged_with_the_question(self) -> None:
        def answer(request: Request) -> dict[str, Any]:
            following = {"href": "/search", "method": "post", "merge": True, "body": {"token": "t"}}
            return page(SCENES[1]) if "token" in request.body else page(SCENES[0], next=following)

        routes: dict[str, Route] = {"/collections/fields": {}, "/search": answer}
        with scripted_api(lambda url: {"/": landing(url), **routes}) as api:
            assert names(api.url) == ["b", "later"]
            first, second = api.asked("/search")
            assert second.body == {**first.body, "token": "t"}

    def test_the_recorded_planetary_computer_is_understood(self) -> None:
        exchanges = json.loads(real("recorded/pc-pages-10x4.json").read_text())

        def answer(request: Request) -> dict[str, Any]:
            asked = dict(request.body)
            return (
                next(
                    page(*exchange["response"]["body"]["features"], next=following)
                    for exchange in exchanges
                    if exchange["request"]["body"].get("token") == asked.get("token")
                    for following in [
                        {**link, "href": "/search"}
                        for link in exchange["response"]["body"]["links"]
                        if link["rel"] == "next"
                    ]
                    if exchange is not exchanges[-1]
                )
                if asked.get("token") != "next:naip:vt_m_4307307_ne_18_h_20160805"
                else page()
            )  # the record ends here

        area = box(-73.21, 43.99, -73.12, 44.05)
        with scripted_api(lambda url: {"/": landing(url), "/search": answer, "/collections/naip": {}}) as api:
            found = names(api.url, collections=("naip",), area=area)
        assert len(found) == 20


class TestHostilePaging:
    def one(self, *docs: Mapping[str, Any], **link: Any) -> Any:
        """An API whose every page holds these and leads on to this."""
        return lambda url: {"/": landing(url), "/collections/fields": {}, "/search": page(*docs, next=link)}

    def counting(self, count: int, step: int = 1, **more: Any) -> Any:
        """An API of pages of one item, each of which names the next by number."""

        def answer(request: Request) -> dict[str, Any]:
            n = int(request.query.get("n", ["0"])[0])
            following = {"href": f"/search?n={n + 1}"} if n + 1 < count else None
            return page(stac_item(f"i{n // step:03d}"), next=following, **more)

        return lambda url: {"/": landing(url, posts=False), "/collections/fields": {}, "/search": answer}

    def test_pages_are_followed_to_the_end(self) -> None:
        with scripted_api(self.counting(7)) as api:
            assert len(names(api.url)) == 7

    def test_a_page_that_names_itself_is_an_error(self) -> None:
        asked = {"collections": ["fields"], "limit": 200}
        with scripted_api(self.one(SCENES[0], href="/search", method="POST", merge=True)) as api:
            with pytest.raises(CatalogError, match="do not end"):
                names(api.url)
            assert len(api.asked("/search")) == 1
        with scripted_api(self.one(SCENES[0], href="/search", method="POST", body=asked)) as api:
            with pytest.raises(CatalogError, match="was there before"):
                names(api.url)
            assert len(api.asked("/search")) == 2

    def test_pages_in_a_circle_are_an_error(self) -> None:
        def answer(request: Request) -> dict[str, Any]:
            n = int(request.query.get("n", ["0"])[0])
            return page(stac_item(f"i{n}"), next={"href": f"/search?n={(n + 1) % 3}"})

        routes: dict[str, Route] = {"/collections/fields": {}, "/search": answer}
        with scripted_api(lambda url: {"/": landing(url), **routes}) as api:
            with pytest.raises(CatalogError, match="do not end"):
                names(api.url)
            assert len(api.asked("/search")) <= 4

    def test_ever_new_names_for_the_same_page_are_an_error(self) -> None:
        def answer(request: Request) -> dict[str, Any]:
            n = int(request.query.get("n", ["0"])[0])
            return page(SCENES[0], next={"href": f"/search?n={n + 1}"})

        routes: dict[str, Route] = {"/collections/fields": {}, "/search": answer}
        with scripted_api(lambda url: {"/": landing(url), **routes}) as api:
            with pytest.raises(CatalogError, match="bring nothing new"):
                names(api.url)
            assert len(api.asked("/search")) < 10

    def test_an_item_on_two_pages_counts_once(self) -> None:
        with scripted_api(self.counting(6, step=2)) as api:
            assert names(api.url) == ["i000", "i001", "i002"]

    def test_pages_that_repeat_items_in_place_of_others_are_an_error(self) -> None:
        repeating = self.counting(6, step=2, numberMatched=6)
        with scripted_api(repeating) as api, pytest.raises(CatalogError, match="leave out 3 of 6"):
            names(api.url)

    def test_an_empty_last_page_that_names_itself_is_the_end(self) -> None:
        def answer(request: Request) -> dict[str, Any]:
            return page(next={"href": "/search?end=1"}) if "end" in request.query else first

        first = page(SCENES[0], next={"href": "/search?end=1"})
        routes: dict[str, Route] = {"/collections/fields": {}, "/search": answer}
        with scripted_api(lambda url: {"/": landing(url), **routes}) as api:
            assert names(api.url) == ["later"]

    def test_an_empty_page_that_leads_on_is_not_the_end(self) -> None:
        def answer(request: Request) -> dict[str, Any]:
            n = int(request.query.get("n", ["0"])[0])
            return page(*SCENES[n : n + n % 2], next={"href": f"/search?n={n + 1}"} if n < 3 else None)

        routes: dict[str, Route] = {"/collections/fields": {}, "/search": answer}
        with scripted_api(lambda url: {"/": landing(url), **routes}) as api:
            assert names(api.url) == ["b"]
            assert len(api.asked("/search")) == 4

    def test_empty_pages_without_end_are_an_error(self) -> None:
        def answer(request: Request) -> dict[str, Any]:
            return page(next={"href": f"/search?n={int(request.query.get('n', ['0'])[0]) + 1}"})

        routes: dict[str, Route] = {"/collections/fields": {}, "/search": answer}
        with scripted_api(lambda url: {"/": landing(url), **routes}) as api:
            with pytest.raises(CatalogError, match="do not end"):
                names(api.url)
            assert len(api.asked("/search")) < 10

    def test_a_next_page_under_another_scheme_is_asked_over_ours(self) -> None:
        def routes(url: str) -> dict[str, Route]:
            following = {"href": f"{url.replace('http:', 'https:')}/more"}
            found = {"/search": page(SCENES[0], next=following), "/more": page(SCENES[1])}
            return {"/": landing(url), "/collections/fields": {}, **found}

        with scripted_api(routes) as api:
            assert names(api.url) == ["b", "later"]

    def test_an_item_collection_on_a_server_is_followed_to_its_end(self) -> None:
        first = page(SCENES[0], next={"href": "more.json"})
        with scripted_api({"/first.json": first, "/more.json": page(*SCENES[1:3])}) as api:
            assert names(f"{api.url}/first.json") == ["a", "b", "later"]
            assert len(api.requests) == 2

    @pytest.mark.parametrize(
        "href",
        ["http://127.0.0.2:1/search", "https://example.com/search", "file:///etc/passwd", "http://169.254.169.254/"],
    )
    def test_a_next_page_on_another_host_is_refused(self, href: str) -> None:
        with scripted_api(self.one(SCENES[0], href=href)) as api, pytest.raises(CatalogError):
            names(api.url)

    @pytest.mark.parametrize(
        "answer",
        [
            b"<!DOCTYPE html><html>Sign in</html>", b"", b"{", b"[" * 100_000, [], {}, {"type": "FeatureCollection"},
            {"features": {}}, {"features": [1]}, {"features": [{"type": "Feature"}]}, {"features": [{"id": "a"}]},
            {"features": [{**SCENES[0], "geometry": None, "bbox": None}]},
            {"features": [{**SCENES[0], "assets": None}]}, {"features": [{**SCENES[0], "properties": {}}]},
        ],
        ids=repr,
    )  # fmt: skip
    def test_nonsense_is_the_catalog_s_fault(self, answer: Any) -> None:
        with scripted_api(lambda url: {"/": landing(url), "/collections/fields": {}, "/search": answer}) as api:
            with pytest.raises(CatalogError) as caught:
                names(api.url)
            assert caught.value.where
        with scripted_api({"/": answer}) as api, pytest.raises((CatalogError, SpecError)):
            names(api.url)


class TestFaults:
    @pytest.fixture
    def served(self, tmp_path: Path) -> Any:
        write(tmp_path / "item.json", stac_item("a"))
        with files_over_http(tmp_path) as server:
            yield server

    @pytest.mark.parametrize(
        "fault",
        [
            Fault(status=429, headers={"Retry-After": "0"}, times=2),
            Fault(status=503, times=3),
            Fault(truncate_at=20, times=1),
            Fault(delay_s=1.0, times=1),
        ],
        ids=["busy", "down", "cut", "slow"],
    )
    def test_what_passes_is_waited_out(self, served: Any, fault: Fault) -> None:
        served.fail("/item.json", fault)
        assert names(f"{served.url}/item.json") == ["a"]
        assert len(served.asked("/item.json")) == (fault.times or 0) + 1

    def test_each_try_is_counted_as_a_request_to_the_host(self, served: Any) -> None:
        served.fail("/item.json", Fault(status=429, headers={"Retry-After": "0"}, times=2))
        before = TRAFFIC.calls()
        names(f"{served.url}/item.json")
        (calls,) = (calls for calls in calls_since(before, TRAFFIC.calls()) if calls.kind == "catalog")
        assert (calls.host, calls.done, calls.failed, calls.throttled) == ("127.0.0.1", 3, 2, 2)

    @pytest.mark.parametrize(
        ("fault", "error", "said"),
        [
            (Fault(status=500), CatalogError, "status 500"),
            (Fault(status=401), CredentialsError, "refuses us"),
            (Fault(status=403), CredentialsError, "refuses us"),
            (Fault(status=404), CatalogError, "nothing at this address"),
            (Fault(status=400, body=b"bad request: no"), CatalogError, "bad request: no"),
            (Fault(status=302, headers={"Location": "/item.json"}), CatalogError, "redirects in a circle"),
            (Fault(truncate_at=20), CatalogError, "cannot be reached"),
            (Fault(body=b"<html>Sign in</html>"), CatalogError, "web page"),
        ],
        ids=lambda value: str(getattr(value, "status", "")),
    )
    def test_what_stays_is_told(self, served: Any, fault: Fault, error: type[MapperError], said: str) -> None:
        served.fail("/item.json", fault)
        with pytest.raises(error, match=said) as caught:
            names(f"{served.url}/item.json?sig=canary&se=1")
        assert "canary" not in str(caught.value)
        assert str(caught.value.where["catalog"]).startswith(served.url)

    def test_a_redirect_is_followed_but_not_inside(self, served: Any) -> None:
        served.fail("/old.json", Fault(status=301, headers={"Location": "item.json"}))
        assert names(f"{served.url}/old.json") == ["a"]
        for location in ("http://169.254.169.254/latest", "file:///etc/passwd", "ftp://example.com/"):
            served.fail("/old.json", Fault(status=307, headers={"Location": location}))
            with pytest.raises(CatalogError):
                names(f"{served.url}/old.json")

    def test_a_catalog_that_is_not_there_cannot_be_reached(self) -> None:
        with files_over_http(Path("/nonexistent")) as served:
            gone = served.url
        with pytest.raises(CatalogError, match="cannot be reached") as caught:
            names(gone)
        assert caught.value.fix

    def test_an_endless_answer_is_cut(self, served: Any) -> None:
        served.fail("/item.json", Fault(body=b" " * 3_000_000))
        small = Fetch(page_limit_bytes=2**20, table_limit_bytes=2**20)
        with pytest.raises(CatalogError, match="larger than 1 MiB"):
            search(Query(catalog=f"{served.url}/item.json", collections=(), area=HERE), fetch=small)

    def test_json_has_a_smaller_limit_than_tables(self, served: Any) -> None:
        served.fail("/item.json", Fault(body=b" " * 3_000_000))
        small = Fetch(page_limit_bytes=2**20)
        with pytest.raises(CatalogError, match="larger than 1 MiB"):
            search(Query(catalog=f"{served.url}/item.json", collections=(), area=HERE), fetch=small)

    def test_a_drip_is_not_waited_for_for_ever(self, served: Any) -> None:
        served.fail("/item.json", Fault(delay_s=0.3))
        impatient = Fetch(answer_timeout_s=0.0, attempts=2, backoff_s=0.001)
        with pytest.raises(CatalogError, match="no whole answer"):
            search(Query(catalog=f"{served.url}/item.json", collections=(), area=HERE), fetch=impatient)

    def test_a_table_that_is_none_is_the_catalog_s_fault(self, served: Any) -> None:
        for content in (b"PAR1 and no more", freeze([])):
            served.fail("/item.json", Fault(body=content))
            with pytest.raises(CatalogError, match="stac-geoparquet"):
                names(f"{served.url}/item.json")
