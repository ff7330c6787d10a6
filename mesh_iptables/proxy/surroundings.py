"""What all requests and connections of one policy share."""

from __future__ import annotations

from dataclasses import dataclass

from mesh_iptables.proxy.access_log import Record
from mesh_iptables.proxy.answers import LocalReply
from mesh_iptables.proxy.cluster import Clusters
from mesh_iptables.proxy.request_ids import RequestIds
from mesh_iptables.proxy.stats import Stats
from mesh_iptables.proxy.wire import Address, Outside


@dataclass(frozen=True, slots=True)
class Surroundings:
    """`logging`: whether anybody reads the access log."""

    outside: Outside
    clusters: Clusters
    stats: Stats
    ids: RequestIds
    logging: bool

    def refused(self, reply: LocalReply, peer: Address, original: Address, sni: str) -> None:
        """Log bytes that were no request."""
        if self.logging:
            record = Record(peer, original, 0.0, status=reply.status, flags=reply.flags, detail=reply.detail, sni=sni)
            self.outside.log(record)
