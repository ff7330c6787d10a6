"""What the parts of the injector share: plain values of a manifest, what there is to say of them, the settings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Data = None | bool | int | float | str | list["Data"] | dict[str, "Data"]
Path = tuple[str | int, ...]

INIT = "mesh-iptables-init"
PROXY = "mesh-iptables-proxy"
POLICY = "mesh-iptables-policy"
STATUS = "mesh-iptables/status"
PROXY_ID = 1337
OUTBOUND_PORT = 15001
INBOUND_PORT = 15006
ADMIN_PORT = 15000


@dataclass(frozen=True, slots=True)
class Remark:
    """Something to say about the value at `path` of a document: a warning, or the reason of a refusal."""

    path: Path
    text: str


class Refused(Exception):
    """A workload cannot be injected."""

    def __init__(self, path: Path, text: str) -> None:
        super().__init__(text)
        self.remark = Remark(path, text)


@dataclass(frozen=True, slots=True)
class Settings:
    """What the command line says: the same for every workload, unless its annotations say otherwise."""

    dialect: str = "istio-1.0"
    mode: str = "REDIRECT"
    sidecar: Literal["native", "classic"] = "native"
    order: Literal["last", "first"] = "last"
    init_image: str = "mesh-iptables-init"
    proxy_image: str = "mesh-iptables-proxy"
    pull_policy: str = ""
    config_map: str = "mesh-iptables-policy"
    net_raw: bool = False
    probes: bool = True
    proxy_words: tuple[str, ...] = ()

    @property
    def fenced(self) -> bool:
        """Whether the proxy has its policy from its arguments; it takes no files besides."""
        return any(word.partition("=")[0] == "--allow" for word in self.proxy_words)


def mapping(value: Data, path: Path) -> dict[str, Data]:
    """A mapping, empty where there is nothing. Raises Refused."""
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise Refused(path, f"{dotted(path)} is not a mapping")
    return value


def sequence(value: Data, path: Path) -> list[Data]:
    """A list, empty where there is nothing. Raises Refused."""
    if value is None:
        return []
    if not isinstance(value, list):
        raise Refused(path, f"{dotted(path)} is not a list")
    return value


def mappings(value: Data, path: Path) -> list[dict[str, Data]]:
    """A list of mappings, empty where there is nothing. Raises Refused."""
    found: list[dict[str, Data]] = []
    for place, item in enumerate(sequence(value, path)):
        if not isinstance(item, dict):
            raise Refused((*path, place), f"{dotted((*path, place))} is not a mapping")
        found.append(item)
    return found


def dotted(path: Path) -> str:
    """A path as people write it: `spec.containers[0].image`."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path).lstrip(".") or "the document"
