"""Say what a compiled policy does with one connection or request, and which document made it so. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import assert_never

from mesh_iptables.policy.engine import NOTHING, ChainIndex, Inspected, Inspection, PolicyIndex
from mesh_iptables.policy.model import (
    BLACKHOLE_CLUSTER,
    BUILT_IN,
    RAW,
    TLS,
    Cluster,
    ClusterKind,
    DirectResponse,
    EgressPolicy,
    Origin,
    Redirect,
    RouteTo,
    TcpAction,
    WeightedCluster,
)
from mesh_iptables.policy.routing import (
    Deny,
    Reason,
    Request,
    Routed,
    redirect_location,
    rewritten_target,
)

_NOT_FOUND = 404


@dataclass(frozen=True, slots=True)
class Question:
    """A connection to `address:port`, and what the client says on it: a request, a TLS hello, or neither."""

    address: str
    port: int
    request: Request | None = None
    sni: str | None = None
    alpn: tuple[str, ...] = ()
    http_version: str = "http/1.1"


@dataclass(frozen=True, slots=True)
class Target:
    """One cluster the traffic may go to; `cluster` None: it does not exist."""

    name: str
    share: float  # 0-1
    cluster: Cluster | None


@dataclass(frozen=True, slots=True)
class Explanation:
    """`action`: route, redirect, answer (HTTP), tcp, close, or refuse (the port is not open).

    `steps` tell the way in words, `origins` are the documents behind it, the deciding one last.
    """

    action: str
    reason: Reason
    steps: tuple[str, ...]
    origins: tuple[Origin, ...] = ()
    targets: tuple[Target, ...] = ()
    status: int | None = None
    location: str | None = None
    target: str | None = None
    listener: str | None = None
    chain: str | None = None
    virtual_host: str | None = None
    rule: str | None = None

    @property
    def allowed(self) -> bool:
        """Whether bytes of the client can reach an upstream."""
        return self.action in ("route", "tcp")


@dataclass(slots=True)
class _Story:
    """An explanation while it grows."""

    steps: list[str] = field(default_factory=list)
    origins: list[Origin] = field(default_factory=list)

    def tell(self, text: str, origin: Origin = BUILT_IN) -> None:
        self.steps.append(text)
        if origin != BUILT_IN and origin not in self.origins:
            self.origins.append(origin)

    def end(self, action: str, reason: Reason) -> Explanation:
        return Explanation(action, reason, tuple(self.steps), tuple(self.origins))


def explain(policy: EgressPolicy, question: Question) -> Explanation:
    """Follow one connection through the policy, as both engines do."""
    story = _Story()
    listener = PolicyIndex(policy).listener_for(question.address, question.port)
    if isinstance(listener, Deny):
        origin = BUILT_IN if listener.reason is Reason.LOOP else policy.default_origin
        story.tell(_NO_LISTENER[listener.reason].format(port=question.port), origin)
        return story.end("refuse" if listener.reason is Reason.NOT_OPEN else "close", listener.reason)
    story.tell(f"listener {listener.listener.name} takes {question.address}:{question.port}")
    inspection = listener.inspection_for(question.port)
    found = _inspected(question, inspection)
    story.tell(_seen(inspection, found))
    chain = listener.chain_for(question.address, question.port, found)
    if isinstance(chain, Deny):
        story.tell("no chain takes a connection that begins like that: it is closed")
        return replace(story.end("close", chain.reason), listener=listener.listener.name)
    story.tell(f"chain {chain.chain.name}", chain.chain.origin)
    end = _through_chain(policy, chain, question, story)
    return replace(end, listener=listener.listener.name, chain=chain.chain.name)


_NO_LISTENER = {
    Reason.LOOP: "port {port} is the redirect port itself: it is closed, else it would come back for ever",
    Reason.NOT_OPEN: "the policy opens no port for this workload: the connection is refused",
    Reason.NO_LISTENER: "nothing names this destination, and unknown destinations are closed",
}


def _inspected(question: Question, inspection: Inspection) -> Inspected:
    """What inspection makes of the first bytes of such a client."""
    if question.sni is not None and inspection.tls:
        return Inspected(TLS, question.sni.lower(), question.alpn)
    if question.sni is not None and inspection.http:
        return Inspected(RAW)
    if question.request is not None and inspection.http:
        return Inspected(RAW, "", (question.http_version,))
    return NOTHING


def _seen(inspection: Inspection, found: Inspected) -> str:
    if not (inspection.tls or inspection.http):
        return "its first bytes are not looked at"
    if found.transport == TLS:
        return f"its first bytes are TLS for {found.sni or 'no server name'}"
    return f"its first bytes are {found.protocols[0] if found.protocols else 'neither TLS nor HTTP'}"


def _through_chain(policy: EgressPolicy, chain: ChainIndex, question: Question, story: _Story) -> Explanation:
    action = chain.chain.action
    if isinstance(action, TcpAction):
        return _to_clusters(policy, action.targets, chain.reason, story)
    assert chain.routes is not None
    if question.request is None:
        story.tell("this chain speaks HTTP; give a host, method and path to follow a request")
        return replace(story.end("answer", Reason.NO_RULE), status=400)
    routed = chain.routes.route_for(question.request)
    if isinstance(routed, Deny):
        story.tell(_NO_ROUTE[routed.reason].format(host=question.request.authority))
        return replace(story.end("answer", routed.reason), status=_NOT_FOUND)
    return _by_rule(policy, routed, question.request, story)


_NO_ROUTE = {
    Reason.NO_HOST: "no virtual host is named {host}: answered 404",
    Reason.NO_RULE: "{host} is known, but none of its rules takes this request: answered 404",
}


def _by_rule(policy: EgressPolicy, routed: Routed, request: Request, story: _Story) -> Explanation:
    rule = routed.rule
    if routed.reason is not Reason.ALLOWED:
        story.tell(f"no virtual host is named {request.authority}")
    story.tell(f"virtual host {routed.vhost.name}", routed.vhost.origin)
    story.tell(f"rule {rule.name}", rule.origin)
    end = _by_action(policy, routed, request, story)
    return replace(end, virtual_host=routed.vhost.name, rule=rule.name)


def _by_action(policy: EgressPolicy, routed: Routed, request: Request, story: _Story) -> Explanation:
    action = routed.rule.action
    match action:
        case RouteTo(targets):
            end = _to_clusters(policy, targets, routed.reason, story, action="route")
            return replace(end, target=rewritten_target(routed.rule, request.target))
        case Redirect(status=status):
            location = redirect_location(action, request)
            story.tell(f"answered {status} with location {location}")
            return replace(story.end("redirect", routed.reason), status=status, location=location)
        case DirectResponse(status=status):
            story.tell(f"answered {status} by the proxy")
            return replace(story.end("answer", routed.reason), status=status)
    assert_never(action)


def _to_clusters(
    policy: EgressPolicy,
    targets: tuple[WeightedCluster, ...],
    reason: Reason,
    story: _Story,
    *,
    action: str = "tcp",
) -> Explanation:
    total = sum(target.weight for target in targets)
    reached = tuple(
        Target(target.cluster, target.weight / total, policy.clusters.get(target.cluster)) for target in targets
    )
    if all(target.name == BLACKHOLE_CLUSTER for target in reached):
        story.tell("the black hole: it is closed")
        return story.end("close", Reason.NO_LISTENER)
    for target in reached:
        origin = target.cluster.origin if target.cluster else BUILT_IN
        share = "" if target.share == 1 else f"{target.share:.0%} "
        story.tell(f"{share}to cluster {target.name}: {_destination(target.cluster)}", origin)
    return replace(story.end(action, reason), targets=reached)


def _destination(cluster: Cluster | None) -> str:
    if cluster is None:
        return "which does not exist (503, or closed)"
    endpoints = ", ".join(f"{each.address}:{each.port}" for each in cluster.endpoints)
    match cluster.kind:
        case ClusterKind.ORIGINAL_DST:
            port = f", port {cluster.port_override}" if cluster.port_override else ""
            return f"where the client connected{port}"
        case ClusterKind.FORWARD:
            return f"the requested name as the proxy resolves it, port {cluster.port_override}{_guard(cluster)}"
        case ClusterKind.STATIC:
            return endpoints or "no endpoint"
        case ClusterKind.STRICT_DNS:
            return f"all addresses of {endpoints}{_guard(cluster)}" if endpoints else "no endpoint"
        case ClusterKind.LOGICAL_DNS:
            return f"the first address of {endpoints}"
    assert_never(cluster.kind)


def _guard(cluster: Cluster) -> str:
    """What the addresses of a name must not be."""
    if not cluster.guarded:
        return ""
    but = f" but {' and '.join(cluster.permitted)}" if cluster.permitted else ""
    return f" (no loopback, link-local or own address{but})"
