from __future__ import annotations

import pickle
import socket
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from catalogs.hrefs import check_href, resolve_href, unsigned
from mapper.errors import AssetError, CatalogError, ReadError
from mapper.raster import gdal_path

PUBLIC = "https://93.184.216.34/stac"
INTRANET = "http://10.1.2.3/stac"
LOOPBACK = "http://127.0.0.1:8080/stac"
LOCAL = "/data/catalog.json"


@pytest.mark.parametrize(
    ("href", "normal"),
    [
        ("https://93.184.216.34/a/b.tif", "https://93.184.216.34/a/b.tif"),
        ("HTTPS://93.184.216.34/a b.tif#part", "https://93.184.216.34/a%20b.tif"),
        (
            "http://93.184.216.34:9000/a%20b.tif?versionId=1",
            "http://93.184.216.34:9000/a%20b.tif?versionId=1",
        ),
        ("s3://some-bucket/a/b.tif", "s3://some-bucket/a/b.tif"),
        ("gs://some-bucket/a.tif", "gs://some-bucket/a.tif"),
        ("az://container/a.tif", "az://container/a.tif"),
    ],
)
def test_a_public_catalog_may_name_public_places(href: str, normal: str) -> None:
    assert check_href(href, catalog=PUBLIC) == normal
    assert check_href(normal, catalog=PUBLIC) == normal


@pytest.mark.parametrize(
    "href",
    [
        "/etc/passwd", "file:///etc/passwd", "a.tif", "", " https://93.184.216.34/a.tif",
        "/vsicurl/https://93.184.216.34/a.tif", "/vsizip//data/a.zip", "vrt:///data/a.tif", "vrt://93.184.216.34/a",
        "<VRTDataset><SRS/></VRTDataset>", "ZARR:/data/a", 'ZARR:"/vsicurl/http://x"', "MEM:::DATAPOINTER=1",
        "GTI:/data/a.gti", "NETCDF:/data/a.nc:v", "GTIFF_DIR:1:/etc/passwd", "WMS:http://x/", "ftp://x/a",
        "data:image/tiff;base64,AAAA", "javascript:alert(1)", "pg:host=localhost", "https://93.184.216.34/a.vrt",
        "s3://bucket", "s3:bucket/key", "s3://UPPER bucket/key", "s3://bucket/../other/key", "az://c/a/../../b",
        "https://user:word@93.184.216.34/a.tif", "https://93.184.216.34@10.0.0.1/a.tif", "https:///a.tif", "https://",
        "https://93.184.216.34\\@127.0.0.1/a", "https://93.184.216.34/a\x00.tif", "https://93.184.216.34/a\n.tif",
        "https://[::1/a.tif", "https://93.184.216.34:99999/a.tif", "https://93.184.216.34/" + "a" * 5000,
    ],
)  # fmt: skip
def test_no_remote_catalog_may_name_what_is_no_plain_remote_file(href: str) -> None:
    with pytest.raises(AssetError, match="href refused") as caught:
        check_href(href, catalog=PUBLIC)
    assert caught.value.fix
    assert "href" in caught.value.where
    assert pickle.loads(pickle.dumps(caught.value)).args == caught.value.args


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1", "127.9.9.9", "[::1]", "localhost", "LOCALHOST.", "a.localhost", "0.0.0.0", "10.0.0.1",
        "192.168.1.1", "172.16.0.1", "169.254.169.254", "100.100.100.200", "[fe80::1]", "[fd00:ec2::254]",
        "[fc00::1]", "224.0.0.1",
        "[::ffff:127.0.0.1]", "[::ffff:10.0.0.1]", "[64:ff9b::7f00:1]", "[2002:7f00:1::]", "168.63.129.16",
        "2130706433", "0x7f000001", "127.1", "0177.0.0.1", "255.255.255.255",
    ],
)  # fmt: skip
def test_a_public_catalog_may_not_name_an_address_inside(host: str) -> None:
    for resolve in (True, False):
        with pytest.raises(AssetError):
            check_href(f"http://{host}/a.tif", catalog=PUBLIC, resolve=resolve)


@pytest.mark.parametrize(
    ("catalog", "host", "allowed"),
    [
        (INTRANET, "10.9.9.9", True), (INTRANET, "93.184.216.34", True), (INTRANET, "127.0.0.1", False),
        (INTRANET, "169.254.169.254", False), (INTRANET, "[fd00:ec2::254]", False),
        (LOOPBACK, "127.0.0.1:99", True), (LOOPBACK, "10.9.9.9", True), (LOOPBACK, "169.254.169.254", False),
        (LOCAL, "127.0.0.1:9999", True), (LOCAL, "10.9.9.9", True), (LOCAL, "169.254.169.254", False),
    ],
)  # fmt: skip
def test_an_href_is_never_nearer_than_its_catalog(catalog: str, host: str, allowed: bool) -> None:
    href = f"http://{host}/a.tif"
    if allowed:
        assert check_href(href, catalog=catalog) == href
    else:
        with pytest.raises(AssetError):
            check_href(href, catalog=catalog)


def test_a_name_is_judged_by_its_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    def looked_up(host: str, *_: object, **__: object) -> list[tuple[object, ...]]:
        found = {"good.test": ["93.184.216.34"], "evil.test": ["93.184.216.34", "127.0.0.1"]}.get(host)
        if found is None:
            raise socket.gaierror(socket.EAI_NONAME, "unknown")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 0)) for address in found]

    monkeypatch.setattr(socket, "getaddrinfo", looked_up)  # the resolver is the network's: no test may need one
    monkeypatch.setattr("urllib.request.getproxies", dict)
    assert check_href("https://good.test/a.tif", catalog="https://good.test/stac")
    with pytest.raises(AssetError, match="a public catalog names a local address"):
        check_href("https://evil.test/a.tif", catalog="https://good.test/stac")
    with pytest.raises(ReadError, match="cannot be looked up"):
        check_href("https://nowhere.test/a.tif", catalog="https://good.test/stac")
    assert check_href("https://nowhere.test/a.tif", catalog="https://good.test/stac", resolve=False)


def test_allowed_hosts_may_lie_anywhere() -> None:
    assert check_href("http://10.0.0.1/a.tif", catalog=PUBLIC, allow_hosts={"10.0.0.1"})


@pytest.mark.parametrize("href", ["/data/a b.tif", "file:///data/a%20b.tif", "//data//x/../a b.tif"])
def test_a_local_catalog_may_name_local_files(href: str) -> None:
    assert check_href(href, catalog=LOCAL) == "/data/a b.tif"


@pytest.mark.parametrize(
    "href",
    ["/vsimem/a.tif", "//vsicurl/http://x", "/./vsizip/a", "/VSIcurl/x", "file:///%76sicurl/x", "/data/a.vrt",
     "file://other/data/a.tif", "file:///data/%00a", "a.tif"],
)  # fmt: skip
def test_not_even_a_local_catalog_may_name_virtual_files(href: str) -> None:
    with pytest.raises(AssetError):
        check_href(href, catalog=LOCAL)


@pytest.mark.parametrize(
    ("href", "path"),
    [
        ("https://h/a.tif", "/vsicurl/https://h/a.tif"),
        ("s3://b/a.tif", "/vsis3/b/a.tif"),
        ("gs://b/a.tif", "/vsigs/b/a.tif"),
        ("az://c/a.tif", "/vsiaz/c/a.tif"),
        ("/data/a.tif", "/data/a.tif"),
    ],
)
def test_gdal_has_a_name_for_every_checked_href(href: str, path: str) -> None:
    assert gdal_path(href) == path


@given(st.text(max_size=60), st.sampled_from(["", "https://93.184.216.34/", "s3://bucket/", "/"]))
def test_what_passes_the_policy_passes_it_again_unchanged(text: str, start: str) -> None:
    for catalog in (PUBLIC, LOCAL):
        try:
            once = check_href(start + text, catalog=catalog)
        except AssetError:
            continue
        assert check_href(once, catalog=catalog) == once
        assert gdal_path(once).startswith(("/vsicurl/http", "/vsis3/", "/vsigs/", "/vsiaz/")) or catalog == LOCAL


@pytest.mark.parametrize(
    ("signed", "bare"),
    [
        ("https://h/a.tif?X-Amz-Signature=1&X-Amz-Date=2&versionId=7", "https://h/a.tif?versionId=7"),
        ("https://h/a.tif?st=1&se=2&sp=rl&sv=3&sr=c&sig=x%3D", "https://h/a.tif"),
        ("https://h/a.tif?Expires=1&Signature=2&Key-Pair-Id=3&Policy=4", "https://h/a.tif"),
        ("https://h/a.tif?token=abc", "https://h/a.tif"),
        ("https://h/a.tif?st=Alabama&sv=1", "https://h/a.tif?st=Alabama&sv=1"),
        ("https://h/a.tif", "https://h/a.tif"),
        ("/data/what?token=1.tif", "/data/what?token=1.tif"),
    ],
)
def test_signatures_are_taken_off_and_nothing_else(signed: str, bare: str) -> None:
    assert unsigned(signed) == bare


def test_an_error_about_an_href_tells_no_secret() -> None:
    with pytest.raises(AssetError) as caught:
        check_href("http://user:canary@10.0.0.1/a.tif?sig=canary", catalog=PUBLIC)
    assert "canary" not in str(caught.value)


@pytest.mark.parametrize(
    ("href", "base", "seen"),
    [
        ("./b/a.tif", "https://h/x/item.json", "https://h/x/b/a.tif"),
        ("../a.tif", "https://h/x/y/item.json?v=1", "https://h/x/a.tif"),
        ("/a.tif", "https://h/x/item.json", "https://h/a.tif"),
        ("//g/a.tif", "https://h/x/item.json", "https://g/a.tif"),
        ("?page=2", "https://h/x/items", "https://h/x/items?page=2"),
        ("a.tif?q=1", "https://h/x/", "https://h/x/a.tif?q=1"),
        ("s3://b/a.tif", "https://h/x/item.json", "s3://b/a.tif"),
        ("../a.tif", "/data/x/item.json", "/data/a.tif"),
        ("a b.tif", "file:///data/x%20y/item.json", "/data/x y/a b.tif"),
        ("https://h/a.tif", "/data/item.json", "https://h/a.tif"),
        ("/other/a.tif", "/data/item.json", "/other/a.tif"),
    ],
)
def test_hrefs_are_seen_from_the_document_that_holds_them(href: str, base: str, seen: str) -> None:
    assert resolve_href(href, base=base) == seen


def test_a_remote_document_cannot_point_at_a_local_file() -> None:
    with pytest.raises(CatalogError, match="names a file of this machine"):
        resolve_href("file:///etc/passwd", base="https://h/item.json")


def test_a_relative_catalog_path_makes_absolute_hrefs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert resolve_href("a.tif", base="item.json") == str(tmp_path / "a.tif")


@given(
    st.from_regex(r"https?://[A-Za-z0-9.-]{1,12}/[A-Za-z0-9_./~%:=+,-]{0,12}(\.vrt|\.VRT)?", fullmatch=True),
    st.sampled_from(["/catalog.json", "https://93.184.216.34/stac"]),
)
def test_a_plain_address_is_judged_as_any_other_is(href: str, catalog: str) -> None:
    def answer(asked: str) -> str:
        try:
            return check_href(asked, catalog=catalog, resolve=False).removesuffix("?a=1")
        except AssetError as error:
            return error.what

    assert answer(href) == answer(f"{href}?a=1")  # with a question, no address is plain
