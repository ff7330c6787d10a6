"""Header fields on their way through: what a proxy must drop, and what Envoy is known to add. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from mesh_iptables.policy.model import NO_HEADER_OPERATIONS, HeaderOperations
from mesh_iptables.proxy.http1 import CHUNKED, UNTIL_CLOSE, Fields, ResponseHead, connection_tokens, joined

_HOP_BY_HOP = frozenset({"connection", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade"})
_REQUEST_DROPPED = _HOP_BY_HOP | {"te", "http2-settings", "content-length", "host"}
# Envoy takes these as instructions from trusted peers; the application is none
_INTERNAL = """
    expected-rq-timeout-ms force-trace hedge-on-per-try-timeout internal ip-tags
    max-retries original-url retriable-header-names retriable-status-codes retry-grpc-on retry-on
    upstream-alt-stat-name upstream-rq-per-try-timeout-ms upstream-rq-timeout-alt-response upstream-rq-timeout-ms
"""
_ENVOY_INTERNAL = frozenset(f"x-envoy-{name}" for name in _INTERNAL.split())
_NEVER_FORWARDED = _REQUEST_DROPPED | _ENVOY_INTERNAL


def request_fields(fields: Fields) -> Fields:
    """The client's end-to-end fields, without Host and without those that describe the body."""
    dropped = _NEVER_FORWARDED
    if any(name == "connection" for name, _ in fields):
        dropped = dropped | frozenset(connection_tokens(fields)) - {"host"}
    kept = [field for field in fields if field[0] not in dropped]
    if any(name == "te" for name, _ in fields) and "trailers" in joined(fields, "te").lower():
        kept.append(("te", "trailers"))
    return kept


def framing_fields(framing: int) -> Fields:
    """What announces a body."""
    if framing == CHUNKED:
        return [("transfer-encoding", "chunked")]
    return [] if framing == UNTIL_CLOSE else [("content-length", str(framing))]


def response_fields(head: ResponseHead) -> Fields:
    """The site's end-to-end fields; `content-length` stays."""
    if not head.names & _HOP_BY_HOP:
        return list(head.fields)
    return [field for field in head.fields if field[0] not in _HOP_BY_HOP]


def operate(fields: Fields, operations: HeaderOperations) -> Fields:
    """Remove, then set, then add."""
    if operations == NO_HEADER_OPERATIONS:
        return fields
    replaced = {name for name, _ in operations.set}
    dropped = replaced.union(operations.remove)
    kept = [field for field in fields if field[0] not in dropped]
    return [*kept, *operations.set, *operations.add]


def without(fields: Fields, names: Iterable[str]) -> Fields:
    """The fields that are not called one of `names`."""
    dropped = frozenset(names)
    return [field for field in fields if field[0] not in dropped]
