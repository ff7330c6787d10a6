"""Put a plan into force in this network namespace: rules and policy routing together, or nothing."""

from __future__ import annotations

from mesh_iptables.apply.netlink import (
    AF,
    LOOPBACK,
    NETLINK_ROUTE,
    Netlink,
    add_local_default,
    add_loopback_address,
    add_mark_rule,
    delete_local_default,
    delete_loopback_address,
    delete_mark_rule,
    interface_addresses,
    local_tables,
    mark_rules,
)
from mesh_iptables.apply.rights import right_remedy
from mesh_iptables.errors import ApplyError, MachineError, MeshIptablesError
from mesh_iptables.model import LoopbackAddress, Network, RouteMarked, RuleOperation, Socket
from mesh_iptables.render.restore import address_command, route_commands

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from mesh_iptables.apply import Applied, Backend
    from mesh_iptables.model import Family, Plan

WHOLE_MARK = 0xFFFFFFFF
EPERM, EEXIST = 1, 17


def enforce(plan: Plan, backend: Backend, *, marks: frozenset[int], tables: frozenset[int]) -> Applied:
    """Make `plan` what is in force here, or change nothing.

    A policy rule is ours when it sends one of our marks to a table that only delivers locally: a mark that our rules
    set until now, or one of `marks` to one of `tables`, the settings of this run.
    """
    routes = [operation for operation in plan.setup if isinstance(operation, RouteMarked)]
    marks_in_force = backend.marks()
    with Netlink(NETLINK_ROUTE) as link:
        routings = [_Routing(link, family, marks_in_force, marks, tables) for family in AF]
        addresses = _Addresses(link, [found for found in plan.setup if isinstance(found, LoopbackAddress)])
        try:
            addresses.add()
            for routing in routings:
                routing.add([route for route in routes if route.family == routing.family])
            applied = _apply(plan, backend)
        except MeshIptablesError:
            for routing in routings:
                routing.undo()
            addresses.undo()
            raise
        for routing in routings:
            routing.remove_others()
        addresses.remove_others(applied.removed)
    parts: tuple[_Routing | _Addresses, ...] = (*routings, addresses)
    return applied.replace(
        removed=(*applied.removed, *(line for part in parts for line in part.removed)),
        added=(*applied.added, *(line for part in parts for line in part.added)),
        warnings=(*applied.warnings, *(line for routing in routings for line in routing.warnings)),
    )


def _apply(plan: Plan, backend: Backend) -> Applied:
    """The rules; where this machine cannot have some that the script goes on without, all others."""
    try:
        return backend.apply(plan)
    except MeshIptablesError as error:
        lesser, warning = _lesser(plan, error)
        if lesser == plan:
            raise
    applied = _apply(lesser, backend)
    return applied.replace(warnings=(*applied.warnings, warning))


def _lesser(plan: Plan, error: MeshIptablesError) -> tuple[Plan, str]:
    """The plan without what `error` may be about, if the script forgives that, and what to tell the user."""
    if isinstance(error, MachineError):
        return _without_forgiven_families(plan), f"inbound IPv6 is not refused (the script goes on, too): {error}"
    if "socket" in str(error):  # any other trouble has nothing to do with that match
        return _without_socket_match(plan), "No socket match support"
    return plan, ""


def _without_socket_match(plan: Plan) -> Plan:
    return plan.replace(
        setup=tuple(
            operation
            for operation in plan.setup
            if not (isinstance(operation, RuleOperation) and Socket() in operation.rule.matches)
        )
    )


def _without_forgiven_families(plan: Plan) -> Plan:
    """The plan without families in which any operation may fail: the IPv6 lockdown of istio-1.0."""
    needed = {operation.family for operation in plan.setup if not getattr(operation, "optional", False)}
    return plan.replace(setup=tuple(operation for operation in plan.setup if operation.family in needed))


PASS_THROUGH = LoopbackAddress("ipv6", Network(6, 6, (1 << 128) - 1))
# Where these go, IPv6 was captured as by istio-1.2x, which also put ::6 on lo.
SIGNS_OF_PASS_THROUGH = frozenset(
    {"ip6tables -t nat -D OUTPUT -j ISTIO_OUTPUT", "nft delete table inet istio-proxy-nat"}
)


class _Addresses:
    """The further addresses of `lo`, as they are and as they become."""

    def __init__(self, link: Netlink, wanted: Sequence[LoopbackAddress]) -> None:
        self.removed: list[str] = []
        self.added: list[str] = []
        self._link = link
        self._wanted = wanted
        self._new: list[LoopbackAddress] = []

    def _is_there(self, operation: LoopbackAddress) -> bool:
        wanted = (LOOPBACK, operation.network.version, operation.network.address)
        return wanted in interface_addresses(self._link)

    def add(self) -> None:
        """Make what is not there yet; ApplyError where the kernel refuses."""
        for operation in self._wanted:
            if self._is_there(operation):
                continue
            text = " ".join(address_command(operation))
            try:
                add_loopback_address(self._link, operation)
            except OSError as error:
                if error.errno == EPERM:
                    raise MachineError(f"{text}: {error.strerror}; {right_remedy('NET_ADMIN')}") from None
                raise ApplyError(f"{text}: {error.strerror}; --ip-family ipv4 does without", 2) from None
            self._new.append(operation)
            self.added.append(text)

    def undo(self) -> None:
        """Put back what was there before `add`."""
        for operation in self._new:
            delete_loopback_address(self._link, operation)

    def remove_others(self, removed: Sequence[str]) -> None:
        """Take back what an earlier run added, if the lines that were removed say that there was one."""
        if PASS_THROUGH in self._wanted or SIGNS_OF_PASS_THROUGH.isdisjoint(removed):
            return
        if self._is_there(PASS_THROUGH):
            delete_loopback_address(self._link, PASS_THROUGH)
            self.removed.append(" ".join(address_command(PASS_THROUGH)).replace(" add ", " del "))


class _Routing:
    """The policy rules and local routes of one family, as they are and as they become."""

    def __init__(
        self,
        link: Netlink,
        family: Family,
        marks_in_force: frozenset[int],
        marks: frozenset[int],
        tables: frozenset[int],
    ) -> None:
        self.family = family
        self.removed: list[str] = []
        self.added: list[str] = []
        self.warnings: list[str] = []
        self._link = link
        self._tables = tables
        self._undo: list[Callable[[], None]] = []
        self._wanted: set[tuple[int, int]] = set()
        try:
            self._local = local_tables(link, family)
            self._others = list(mark_rules(link, family))
        except OSError:  # a kernel without this family
            self._local, self._others = frozenset(), []
        self._ours = [
            rule
            for rule in self._others
            if rule.mask == WHOLE_MARK
            and rule.table in self._local
            and (rule.mark in marks_in_force or (rule.mark in marks and rule.table in tables))
        ]

    def add(self, routes: Sequence[RouteMarked]) -> None:
        """Make what is not there yet; ApplyError where the kernel refuses a rule."""
        self._wanted = {(route.mark, route.table) for route in routes}
        present = {(rule.mark, rule.table) for rule in self._others if rule.mask == WHOLE_MARK}
        for route in routes:
            if (route.mark, route.table) not in present:
                self._add_rule(route)
            if route.table not in self._local:
                self._add_route(route)

    def _add_rule(self, route: RouteMarked) -> None:
        text = " ".join(route_commands(route)[0])
        try:
            add_mark_rule(self._link, route)
        except OSError as error:
            if error.errno == EPERM:
                raise MachineError(f"{text}: {error.strerror}; {right_remedy('NET_ADMIN')}") from None
            raise ApplyError(f"{text}: {error.strerror}", 2) from None
        self.added.append(text)
        self._undo.append(lambda: self._take_back(route))

    def _take_back(self, route: RouteMarked) -> None:
        known = {rule.priority for rule in self._others}
        for rule in mark_rules(self._link, self.family):
            if (rule.mark, rule.table) == (route.mark, route.table) and rule.priority not in known:
                delete_mark_rule(self._link, self.family, rule)

    def _add_route(self, route: RouteMarked) -> None:
        text = " ".join(route_commands(route)[1])
        try:
            add_local_default(self._link, route)
        except OSError as error:
            if error.errno != EEXIST:  # the script goes on without the route
                self.warnings.append(f"{text}: {error.strerror}; marked packets for other hosts will not arrive")
            return
        self.added.append(text)
        self._undo.append(lambda: delete_local_default(self._link, self.family, route.table))

    def undo(self) -> None:
        """Put back what was there before `add`."""
        for step in reversed(self._undo):
            step()

    def remove_others(self) -> None:
        """Remove rules of ours that are not wanted, doubles of wanted ones, and the routes nobody needs any more."""
        kept: set[tuple[int, int]] = set()
        stale = set(self._tables & self._local)
        for rule in self._ours:
            if (rule.mark, rule.table) in self._wanted - kept:
                kept.add((rule.mark, rule.table))
                continue
            delete_mark_rule(self._link, self.family, rule)
            self._others.remove(rule)
            self.removed.append(_text(self.family, "rule del", f"fwmark {rule.mark:#x} lookup {rule.table}"))
            stale.add(rule.table)
        used = {rule.table for rule in self._others} | {table for _, table in self._wanted}
        for table in sorted(stale - used):
            delete_local_default(self._link, self.family, table)
            self.removed.append(_text(self.family, "route del", f"local default dev lo table {table}"))


def _text(family: Family, verb: str, what: str) -> str:
    return f"ip -{family[-1]} {verb} {what}"
