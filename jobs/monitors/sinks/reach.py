"""Whom an alert may reach: the rule for every sink that is a server.

A job file may come from elsewhere, and what it names is asked from inside: by its own word it reaches public addresses
only, and this machine where it says so plainly (``localhost``, ``127.0.0.1``, ``[::1]``), for which no name is looked
up. A host on a private network is reached where the owner of this machine names it in ``RESMAP_ALERT_HOSTS``. Services
that hand out a machine's own credentials are reached by nobody. A job that is submitted to a server is run once, and
what its ``monitor:`` says is not acted on, so that no stranger's webhook is ever called from there.

What is judged is what is connected to (``catalogs/connections.py``), and no redirect is followed.
"""

from __future__ import annotations

from urllib.parse import urlsplit

from catalogs.addresses import Nearness
from catalogs.hrefs import check_href
from jobs.settings import alert_hosts
from mapper.errors import AssetError, SpecError

HERE = ("localhost", "127.0.0.1", "::1")
"""The ways to write this machine that look no name up in any network."""


def reach_of_host(host: str) -> Nearness:
    """The nearest address at which a sink's host may lie."""
    if host.lower() in HERE:
        return Nearness.THIS_MACHINE
    return Nearness.PRIVATE if host.lower() in alert_hosts() else Nearness.PUBLIC


def checked_webhook(url: str) -> tuple[str, Nearness]:
    """The address of a webhook, normalised, and how near what it leads to may lie. Nothing is looked up.

    Raises:
        SpecError: it is no address to which an alert may go.
    """
    try:
        checked = check_href(url, catalog="/", resolve=False)  # of a local file: written in the job, by its own word
        parts = urlsplit(checked)
    except (AssetError, ValueError) as error:
        what = error.what.removeprefix("href refused: ") if isinstance(error, AssetError) else str(error)
        raise SpecError(f"the webhook is not called: {what}", fix="give the https address it listens at") from error
    host = parts.hostname or ""
    if parts.scheme != "https" and not (parts.scheme == "http" and host in HERE):
        raise SpecError(
            "a webhook is called over https; http is for this machine alone",
            fix="give its https address, or http://localhost:PORT/…",
            host=host,
        )
    return checked, reach_of_host(host)


def not_from_here(host: str, near: str) -> tuple[str, str]:
    """What is said of a host that lies too near, and what to do about it."""
    return (
        f"{host} lies at a {near} address, and a job file alone may not reach one",
        f"if it is meant, the owner of this machine sets RESMAP_ALERT_HOSTS={host}",
    )
