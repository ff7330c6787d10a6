"""The pool of a host, of the protocol that it speaks."""

from __future__ import annotations

from mesh_iptables.proxy.cluster import ClusterState, Host, Queue
from mesh_iptables.proxy.upstream import Pool


def make_pool(cluster: ClusterState, host: Host, name: str, *, http2: bool) -> Queue:
    """See `cluster.PoolMaker`."""
    if not http2:
        return Pool(cluster, host, name)
    from mesh_iptables.proxy.http2_upstream import Http2Pool  # few sites speak it in clear text

    return Http2Pool(cluster, host, name)
