"""No stranger's address leads to a file of this machine, or to a network that the stranger is not on."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterator
from dataclasses import replace
from functools import partial

import pytest
from shapely.geometry import box

from catalogs import addresses
from catalogs.addresses import Nearness
from catalogs.connections import bounded, guarded_session
from catalogs.fetch import Fetch
from catalogs.hrefs import check_href
from catalogs.search import Query, search
from mapper.errors import AssetError, CatalogError, MapperError
from tests.hostile.catalogs import INSIDE, NO_ADDRESS, PUBLIC, good_item
from tests.hostile.outcome import outcome
from tests.hostile.servers import Reply, Server, said_by

QUICK = Fetch(backoff_s=0.001, read_timeout_s=1.0, connect_timeout_s=2.0, attempts=1)
OUTSIDE = "127.0.0.2"
"""A loopback address that plays the internet here."""


@pytest.fixture
def forgetful() -> Iterator[None]:
    """What was looked up before is forgotten, and what is looked up here too."""
    addresses._looked_up.cache_clear()
    yield
    addresses._looked_up.cache_clear()


@pytest.fixture
def stranger(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A server outside, as far as the policy can tell, that redirects to the inside by whatever its path says."""
    judged = addresses._nearness

    def nearness(address: addresses.Address) -> Nearness:
        return Nearness.PUBLIC if address == ipaddress.ip_address(OUTSIDE) else judged(address)

    monkeypatch.setattr(addresses, "_nearness", nearness)  # no test may need a host of the internet
    replies: dict[str, Reply] = {}
    with said_by(replies, host=OUTSIDE) as server, said_by({"/secret": Reply()}) as inside:
        for n, host in enumerate(INSIDE):
            replies[f"/{n}"] = Reply(status=302, headers={"Location": located(f"http://{host}:{inside.port}/secret")})
        yield server
        assert not inside.asked


def located(address: str) -> str:
    """An address as the bytes of a header."""
    return address.encode().decode("latin-1")


@pytest.mark.parametrize("host", INSIDE, ids=ascii)
@pytest.mark.parametrize("tail", ["/a.tif", ":8080/a.tif", "/a b.tif?x=1"])
def test_no_spelling_of_an_address_inside_passes(host: str, tail: str) -> None:
    for scheme in ("http", "HTTPS"):
        for resolve in (True, False):
            with pytest.raises(AssetError, match="href refused"):
                check_href(f"{scheme}://{host}{tail}", catalog=PUBLIC, resolve=resolve)


@pytest.mark.parametrize("href", NO_ADDRESS, ids=lambda href: ascii(href)[:60])
def test_what_is_no_place_of_a_picture_is_refused(href: str) -> None:
    error = outcome(partial(check_href, href, catalog=PUBLIC, resolve=False))
    assert isinstance(error, AssetError)
    assert len(str(error)) < 1000


def test_a_name_of_other_letters_is_looked_up_as_it_is_judged() -> None:
    assert check_href("https://bücher.example/a.tif", catalog=PUBLIC, resolve=False).startswith(
        "https://xn--bcher-kva."
    )


def test_no_redirect_leads_inside(stranger: Server) -> None:
    for n, host in enumerate(INSIDE):
        error = outcome(partial(QUICK.read, f"{stranger.url}/{n}"))
        assert isinstance(error, MapperError), host
    assert len(stranger.asked) == len(INSIDE)


def test_a_redirect_that_is_allowed_once_is_judged_at_each_hop(stranger: Server) -> None:
    with said_by({"/hop": Reply(status=307, headers={"Location": "http://169.254.169.254/latest"})}) as near:
        links = {"/start": Reply(status=302, headers={"Location": f"{near.url}/hop"})}
        with said_by(links) as start:
            assert isinstance(outcome(partial(QUICK.read, f"{start.url}/start")), CatalogError)
            assert near.asked == ["/hop"]  # a catalog on this machine may lead to this machine, and no further in


@pytest.mark.parametrize(("hops", "followed"), [(1, True), (3, True), (4, False), (40, False)])
def test_three_redirects_are_followed(hops: int, followed: bool) -> None:
    replies = {f"/{n}": Reply(status=302, headers={"Location": f"/{n + 1}"}) for n in range(hops)}
    with said_by({**replies, f"/{hops}": Reply(body=b"{}")}) as server:
        answer = outcome(partial(QUICK.read, f"{server.url}/0"))
        assert (answer == b"{}") is followed
        assert len(server.asked) <= 4


def test_redirects_in_a_circle_end() -> None:
    replies = {"/a": Reply(status=302, headers={"Location": "/b"}), "/b": Reply(status=302, headers={"Location": "/a"})}
    with said_by(replies) as server:
        error = outcome(partial(QUICK.read, f"{server.url}/a"))
    assert isinstance(error, CatalogError)
    assert "circle" in error.what


@pytest.mark.parametrize(
    "location", ["", "http://", "//", "http://[::1", "\x80\xff", "x" * 60_000, "http:///a", "?", "#"]
)
def test_a_redirect_to_nowhere_is_a_sentence(location: str) -> None:
    with said_by({"/a": Reply(status=301, headers={"Location": location})}) as server:
        assert isinstance(outcome(partial(QUICK.read, f"{server.url}/a")), MapperError)


class TestNamesThatChangeTheirMind:
    def test_what_is_judged_is_what_is_connected_to(self, monkeypatch: pytest.MonkeyPatch, forgetful: None) -> None:
        """The name's owner answers with an address outside, and with one inside ever after."""
        answers = iter([OUTSIDE])
        asked = []

        def looked_up(host: str, port: object, *_: object, **__: object) -> list[tuple[object, ...]]:
            asked.append(host)
            address = host if host[0].isdigit() else next(answers, "127.0.0.1")
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port or 0))]

        with said_by({"/": Reply(body=b"outside")}, host=OUTSIDE) as outside:
            monkeypatch.setattr(socket, "getaddrinfo", looked_up)  # the resolver is the network's: no test may need one
            with bounded(reach=Nearness.THIS_MACHINE, head_s=2):
                answer = guarded_session().get(f"http://changing.test:{outside.port}/", timeout=2)
            assert answer.content == b"outside"
        assert asked.count("changing.test") == 1

    def test_nothing_is_sent_to_an_address_inside(self, monkeypatch: pytest.MonkeyPatch, forgetful: None) -> None:
        def looked_up(*_: object, **__: object) -> list[tuple[object, ...]]:
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 0)) for address in (OUTSIDE, "127.0.0.1")]

        with said_by({"/": Reply()}) as inside, socket.create_server(("127.0.0.1", 0)) as silent:
            monkeypatch.setattr(socket, "getaddrinfo", looked_up)
            silent.settimeout(0.2)
            for port in (inside.port, silent.getsockname()[1]):
                for scheme in ("http", "https"):
                    with bounded(reach=Nearness.PUBLIC, head_s=2), pytest.raises(CatalogError, match="local address"):
                        guarded_session().get(f"{scheme}://changed.test:{port}/", timeout=2)
            assert not inside.asked
            with pytest.raises(TimeoutError):
                silent.accept()  # not even a connection was made

    def test_a_catalog_that_is_public_reaches_nothing_nearer_even_by_its_own_name(self) -> None:
        with said_by({"/item.json": Reply()}) as inside:
            error = outcome(partial(replace(QUICK, catalog=PUBLIC).read, f"{inside.url}/item.json"))
            assert isinstance(error, CatalogError)
            assert not inside.asked


def test_the_users_own_word_may_name_this_machine_and_never_what_serves_credentials() -> None:
    with said_by({"/item.json": Reply(body=b'{"id": 1}')}) as server:
        assert QUICK.read(f"{server.url}/item.json")
    for host in ("169.254.169.254", "[fd00:ec2::254]", "100.100.100.200"):
        query = Query(catalog=f"http://{host}/latest/meta-data", collections=(), area=box(0, 0, 1, 1))
        error = outcome(partial(search, query, fetch=QUICK))
        assert isinstance(error, CatalogError)
        assert "may not be reached" in error.what


def test_the_assets_of_a_stranger_are_judged_before_any_is_opened() -> None:
    from catalogs.items import item_from_stac

    doc = good_item()
    for href in ("file:///etc/passwd", "http://169.254.169.254/a.tif", "/vsicurl/http://x/a.tif"):
        doc["assets"]["image"]["href"] = href
        error = outcome(partial(item_from_stac, doc, bands=["red"], judge=partial(check_href, catalog=PUBLIC)))
        assert isinstance(error, AssetError)
