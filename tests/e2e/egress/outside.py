"""The process that is the outside: sites and name server in a network namespace of their own.

Started by `world.py` inside a fresh network namespace. It says "link" when it wants its network card, waits for a
line, and says "up" once everything listens; then each line of JSON on stdin is an order, answered by a line.
"""

from __future__ import annotations

import asyncio
import json
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

from .dns import Server, Zone
from .say import say
from .schema import WorldFile, read_world
from .sites import Lab, Site, open_site, services

CLOSED, DEAD = "closed", "dead"  # first labels of the names that answer RST, and that do not answer at all


def own_addresses(world: WorldFile) -> list[tuple[str, str]]:
    """(name, address) of every host that is there; packets to the others find no owner and are dropped."""
    return [(name, ip) for name, ips in world.hosts.items() for ip in ips if name.split(".")[0] != DEAD]


async def serve(world: WorldFile, pki: Path) -> None:
    lab = Lab(pki)
    zone = Zone(world.hosts, world.dns_special)
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(_report)
    dns_address, dns_port = str(world.networks["outside"]["dns"]).removesuffix("/udp").split(":")
    await loop.create_datagram_endpoint(lambda: Server(zone), local_addr=(dns_address, int(dns_port)))
    servers = [
        await open_site(lab, Site(name, address, port), service)
        for name, address in own_addresses(world)
        if name.split(".")[0] != CLOSED
        for port, service in services(world.ports).items()
    ]
    say("up")
    await _obey(lab, zone)
    for server in servers:
        server.close()


def _report(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Peers that break off are the point of this lab; anything else is a mistake in it."""
    if not isinstance(context.get("exception"), OSError):
        loop.default_exception_handler(context)


async def _obey(lab: Lab, zone: Zone) -> None:
    """Carry out orders until stdin ends."""
    orders = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(orders), sys.stdin)
    while line := await orders.readline():
        say(json.dumps(_order(lab, zone, json.loads(line))))


def _order(lab: Lab, zone: Zone, order: dict[str, Any]) -> Any:
    match order:
        case {"dns": records}:
            zone.set(records)
        case {"dns_delay": seconds}:
            zone.delay = float(seconds)
        case {"forget": True}:
            lab.last = None
        case {"last": True}:
            return lab.last
        case {"asked": name}:
            return zone.asked[str(name)]
        case {"connections": True}:
            return lab.connections
    return None


def main() -> None:
    world = read_world(Path(sys.argv[1]))
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    say("link")
    sys.stdin.readline()
    commands = ["link set lo up", *(f"addr add {ip}/32 dev lo" for _, ip in own_addresses(world))]
    subprocess.run(["ip", "-batch", "-"], input="\n".join(commands), text=True, check=True, timeout=30)
    asyncio.run(serve(world, Path(sys.argv[2])))


if __name__ == "__main__":
    main()
