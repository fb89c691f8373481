"""How often is too often: so many at once, then one every so often, for each peer by itself."""

from __future__ import annotations

import ipaddress
from collections import OrderedDict

MOST_PEERS = 10_000
"""Those not heard of for longest are forgotten, and begin anew."""


class Allowance:
    """A bucket of turns for each peer. The clock's reading is given; nothing waits here."""

    def __init__(self, burst: int, every_s: float) -> None:
        """All buckets are full.

        Args:
            burst: turns that a peer has at once.
            every_s: after so long it has one more.
        """
        self._burst = burst
        self._every_s = every_s
        self._peers: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def wait_s(self, peer: str, now: float) -> float:
        """Seconds until this peer has a turn; 0 where it has one."""
        return max(0.0, (1 - self._turns(peer, now)) * self._every_s)

    def take(self, peer: str, now: float) -> float:
        """Use a turn up and give 0; where there is none, as ``wait_s``."""
        wait = self.wait_s(peer, now)
        if not wait:
            self._peers[peer] = (self._turns(peer, now) - 1, now)
            self._peers.move_to_end(peer)
            if len(self._peers) > MOST_PEERS:
                self._peers.popitem(last=False)
        return wait

    def _turns(self, peer: str, now: float) -> float:
        turns, at = self._peers.get(peer, (float(self._burst), now))
        return min(self._burst, turns + (now - at) / self._every_s)


def peer_of(address: str) -> str:
    """Whose turns an address uses up: of IPv6, whoever has the network has all its 2⁶⁴ addresses."""
    try:
        known = ipaddress.ip_address(address)
    except ValueError:
        return address
    if isinstance(known, ipaddress.IPv6Address) and known.ipv4_mapped is None:
        return str(ipaddress.ip_network((known, 64), strict=False))
    return str(getattr(known, "ipv4_mapped", None) or known)
