"""What may be opened at all: one policy for every href, before any reader sees it.

A catalog is written by strangers, and whatever opens rasters will open whatever it is told to: a file of this
machine, a database on its network, the cloud's credential service, a virtual file that names any of them. So:

- schemes are ``http``, ``https``, ``s3``, ``gs``, ``az``, and a local path where the catalog itself is local;
- nothing may be nearer to us than its catalog: a public catalog names public hosts, a catalog on a private
  network private ones too, and only one on this machine (a local file, a loopback host) names this machine;
- addresses that serve a machine's own credentials are refused to all.

What this does not see: a redirect, and a name that resolves otherwise a second later. ``catalogs/connections.py`` and
``catalogs/fetch.py`` look at those for all that is read through them; what GDAL opens it looks up, and is redirected,
on its own.
"""

from __future__ import annotations

import posixpath
import re
import time
from collections.abc import Collection
from functools import lru_cache
from pathlib import Path
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit, urlunsplit

import idna

from catalogs.addresses import Nearness, nearness_of_host
from mapper.errors import AssetError, CatalogError, ReadError

_SCHEME = re.compile(r"^([A-Za-z][A-Za-z0-9+.-]*):")
_BUCKET = re.compile(r"^[a-z0-9$][a-z0-9._-]{1,62}$")
_PLAIN_URL = re.compile(r"(https?)://((?:[a-z0-9-]+\.)+[a-z0-9-]+)/[A-Za-z0-9_./~%:=+,-]*")
"""What comes out of the full check as it went in, but for its host."""

_HOST = re.compile(r"(?:[a-z0-9_-]+\.)*[a-z0-9_-]+|[0-9a-f:.]+:[0-9a-f:.]*")
"""A name or an address. No ``%``: some readers decode it there, and some do not."""

_USER = re.compile(r"(?<=://)[^/?#]*@")

_STORES = ("s3", "gs", "az")
_WEB_PORTS = (80, 443)
_LONGEST = 4096
"""Characters of an href; a signed one has some 1,500."""

_REMEMBERED_S = 60
"""How long it is remembered how near a host is."""

_SIGNATURES = {"awsaccesskeyid", "signature", "expires", "policy", "key-pair-id", "googleaccessid", "sig"}
_SIGNATURES |= {"token", "access_token", "api_key", "apikey", "key"}
_AZURE_SAS = {"sv", "ss", "srt", "sr", "se", "st", "sp", "spr", "sip", "si", "sdd", "ses"}
_AZURE_SAS |= {"skoid", "sktid", "skt", "ske", "sks", "skv"}
"""Signatures only beside a ``sig``: short as they are, elsewhere they mean other things."""


def check_href(href: str, *, catalog: str, allow_hosts: Collection[str] = (), resolve: bool = True) -> str:
    """The href, normalised, if a job that reads this catalog may open it.

    Args:
        href: absolute, as it stands in an item.
        catalog: path or URL of the catalog the job names: how near it is decides how near the href may be.
        allow_hosts: host names or addresses that are allowed wherever they lie.
        resolve: look the host up and judge its addresses. Without, only what is written is judged: enough to
            plan by, not to open by.

    Raises:
        AssetError: the href may not be opened.
        ReadError: its host cannot be looked up now.
    """
    plain = _PLAIN_URL.fullmatch(href)
    if plain and len(href) <= _LONGEST and not href.lower().endswith(".vrt"):  # a million of them take seconds so
        _judge_host(plain[2], plain[1], href, catalog=catalog, allow_hosts=allow_hosts, resolve=resolve)
        return href
    _refuse_odd_characters(href)
    scheme = scheme_of(href)
    if scheme in ("", "file"):
        if is_remote(catalog):
            raise _refused("a remote catalog names a file of this machine", href)
        return _checked_path(href)
    if scheme in _STORES:
        return _checked_object(href)
    if scheme in ("http", "https"):
        return _checked_url(href, catalog=catalog, allow_hosts=allow_hosts, resolve=resolve)
    raise _refused(f"{scheme}: is not a way to imagery that is read here", href)


def unsigned(href: str) -> str:
    """The href without what signs it, and without a user's name and password: signatures expire within the hour, and
    are secrets till then."""
    if scheme_of(href) not in ("http", "https", "s3", "gs", "az"):
        return href
    href = _USER.sub("", href, count=1)
    if "?" not in href:
        return href
    try:
        parts = urlsplit(href)
        fields = parse_qsl(parts.query, keep_blank_values=True)
    except ValueError:  # no address, or a thousand fields: whoever opens it will say so, and none of it is kept
        return href.partition("?")[0]
    azure = any(name.lower() == "sig" for name, _ in fields)
    kept = [(name, value) for name, value in fields if not _signs(name.lower(), azure=azure)]
    if len(kept) == len(fields):
        return href
    return urlunsplit(parts._replace(query=urlencode(kept)))


def scheme_of(href: str) -> str:
    """The scheme in lower case, empty for a path."""
    match = _SCHEME.match(href)
    return match[1].lower() if match else ""


def is_remote(place: str) -> bool:
    """Whether a path or URL of a catalog is anything but a file of this machine."""
    return scheme_of(place) not in ("", "file")


def local_path(place: str) -> Path:
    """The path of a local file, from a path or a ``file:`` URL."""
    return Path(unquote(urlsplit(place).path)) if scheme_of(place) == "file" else Path(place)


def _refuse_odd_characters(href: str) -> None:
    if not href or len(href) > _LONGEST:
        raise _refused(f"an href of {len(href)} characters is none", href[:80])
    if not href.isprintable() or "<" in href or ">" in href:
        raise _refused("an href has characters that no address has", href)
    if href != href.strip():
        raise _refused("an href begins or ends with a space", href)


def _checked_path(href: str) -> str:
    if scheme_of(href) == "file" and urlsplit(href).netloc not in ("", "localhost"):
        raise _refused("a file: URL names another machine", href)
    path = str(local_path(href))
    if not path.isprintable() or not path.startswith("/"):
        raise _refused("a local path is not absolute", href)
    path = posixpath.normpath("/" + path.lstrip("/"))
    if path.lower().startswith("/vsi") or path.lower().endswith(".vrt"):
        raise _refused("a virtual file can name any other", href)
    return path


def _checked_object(href: str) -> str:
    scheme, rest = href.split(":", 1)
    bucket, _, key = rest.removeprefix("//").partition("/")
    if not rest.startswith("//") or not _BUCKET.match(bucket) or not key:
        raise _refused(f"{scheme}: needs a bucket and a key", href)
    if "\\" in key or any(part in (".", "..") for part in key.split("/")):
        raise _refused("a key climbs out of its folder", href)
    if key.lower().endswith(".vrt"):
        raise _refused("a virtual file can name any other", href)
    return f"{scheme.lower()}://{bucket}/{key}"


def _checked_url(href: str, *, catalog: str, allow_hosts: Collection[str], resolve: bool) -> str:
    try:
        parts = urlsplit(href)
        host, port = parts.hostname or "", parts.port
    except ValueError as error:
        raise _refused(f"an href is no address: {error}", href) from error
    if "@" in parts.netloc:
        raise _refused("an href carries a user name", parts._replace(netloc="…").geturl())
    host = _ascii(host).rstrip(".")
    if "\\" in href or not _HOST.fullmatch(host):
        raise _refused("an href is no address", href)
    if parts.path.lower().endswith(".vrt"):
        raise _refused("a virtual file can name any other", href)
    if port is not None and port < 1024 and port not in _WEB_PORTS and not _may_name_any_port(catalog, port):
        raise _refused(f"port {port} is no web server's", href)
    _judge_host(host, parts.scheme.lower(), href, catalog=catalog, allow_hosts=allow_hosts, resolve=resolve)
    name = f"[{host}]" if ":" in host else host
    return urlunsplit(
        (
            parts.scheme.lower(),
            f"{name}:{port}" if port else name,
            quote(parts.path, safe="/%:=&?~+!$,;'@()*[]"),
            parts.query.replace(" ", "%20"),
            "",
        )
    )


def _ascii(host: str) -> str:
    """A name as it is looked up: ``bücher.example`` in Punycode, and ``①②⑦.⓪.⓪.①`` as the address it becomes."""
    try:
        return host if host.isascii() else idna.encode(host, uts46=True).decode()
    except idna.IDNAError:
        return ""


def _may_name_any_port(catalog: str, port: int) -> bool:
    """Of the ports that a system keeps for its services, a public catalog may name its own and those of the web."""
    return reach_of(catalog) > Nearness.PUBLIC or urlsplit(catalog).port == port


def _judge_host(
    host: str, scheme: str, href: str, *, catalog: str, allow_hosts: Collection[str], resolve: bool
) -> None:
    if allow_hosts and host in {allowed.lower() for allowed in allow_hosts}:
        return
    found, near = _nearness(host, scheme, catalog, resolve, int(time.monotonic() // _REMEMBERED_S))
    if found > near:
        raise _refused(
            f"a {near.said} catalog names a {found.said} address",
            href,
            fix=f"if {host} is meant to be read, add it to the hosts that are allowed",
        )


@lru_cache(maxsize=1024)
def _nearness(host: str, scheme: str, catalog: str, resolve: bool, when: int) -> tuple[Nearness, Nearness]:
    """How near a host is, and how near it may be; ``when`` only lets the cache forget."""
    found = nearness_of_host(host, scheme=scheme, resolve=resolve)
    return found, reach_of(catalog)


def reach_of(catalog: str) -> Nearness:
    """How near a catalog may lead: as near as it lies. A file lies here; a name that cannot be resolved is public."""
    if not is_remote(catalog):
        return Nearness.THIS_MACHINE
    try:
        parts = urlsplit(catalog)
        near = nearness_of_host(_ascii(parts.hostname or "").rstrip("."), scheme=parts.scheme.lower())
    except (ValueError, ReadError):
        return Nearness.PUBLIC
    return min(near, Nearness.THIS_MACHINE)


def _signs(name: str, *, azure: bool) -> bool:
    return name in _SIGNATURES or name.startswith(("x-amz-", "x-goog-")) or (azure and name in _AZURE_SAS)


def _refused(why: str, href: str, *, fix: str = "leave the item out, or correct its href in the catalog") -> AssetError:
    return AssetError(f"href refused: {why}", fix=fix, href=unsigned(href)[:300])


def check_link(href: str, *, base: str, catalog: str) -> str:
    """The address a link of a catalog leads to, if it may be read.

    Args:
        href: as written.
        base: path or URL of the document that holds it.
        catalog: path or URL that the job names.

    Raises:
        CatalogError: it may not be read, or its host cannot be looked up now.
    """
    try:
        return check_href(resolve_href(href, base=base), catalog=catalog)
    except (AssetError, ReadError) as error:
        raise CatalogError(
            f"the catalog leads where it may not: {error.what}",
            fix="if the other place is to be trusted, give its own address as imagery.catalog",
            catalog=unsigned(catalog),
            link=unsigned(href)[:300],
        ) from error


def resolve_href(href: str, *, base: str) -> str:
    """The href as seen from the document that holds it: absolute.

    Args:
        href: as written.
        base: path or URL of the document.

    Raises:
        CatalogError: a document from elsewhere names a file of this machine.
    """
    scheme = scheme_of(href)
    if not is_remote(base):
        if scheme:
            return href
        return href if href.startswith("/") else posixpath.normpath(posixpath.join(_folder(base), href))
    if scheme == "file":
        raise CatalogError("a remote catalog names a file of this machine", catalog=base, href=href)
    if scheme:
        return href
    return _joined(base, href)


def _folder(base: str) -> str:
    return posixpath.dirname(str(local_path(base).absolute()))


def _joined(base: str, href: str) -> str:
    parts = urlsplit(base)
    if href.startswith("//"):
        return f"{parts.scheme}:{href}"
    target, _, query = href.partition("?")
    path = target if target.startswith("/") else posixpath.join(posixpath.dirname(parts.path) or "/", target)
    path = posixpath.normpath(path) + ("/" if target.endswith("/") else "") if target else parts.path
    return urlunsplit((parts.scheme, parts.netloc, path, query, ""))
