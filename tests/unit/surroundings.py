"""A network namespace and its machine, without either."""

from __future__ import annotations

import ipaddress


class FewSurroundings:
    """Has these addresses, interface by interface, and these resolvers."""

    def __init__(self, addresses: tuple[str, ...] = (), nameservers: tuple[str, ...] = ()) -> None:
        self._addresses = addresses
        self._nameservers = nameservers

    def addresses(self) -> tuple[tuple[int, int], ...]:
        parsed = [ipaddress.ip_address(text) for text in self._addresses]
        return tuple((address.version, int(address)) for address in parsed)

    def nameservers(self) -> tuple[str, ...]:
        return self._nameservers
