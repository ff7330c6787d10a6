"""Which traffic today's dialect treats otherwise than istio-1.0: every line of the page, by real connections."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.netns.pod import APP, ON_ADDRESS, POD, POD6, PROXY_ID, ROOT_ID, SERVER, SERVER6, SSH, TUNNEL, Pod, new_pod

PAGE = Path(__file__).parents[2] / "docs" / "explanation" / "from-1.0-to-today.md"
OLD, NEW = ("--dialect", "istio-1.0"), ("--dialect", "istio-1.2x")
BACKEND = ("--backend", "restore", "--iptables", "nft")
ALL = ("-u", "1337", "-b", "*", "-i", "*")


@dataclass(frozen=True)
class Question:
    """One connection (or datagram), and the words of the page's line about it."""

    line: str
    address: str
    port: int
    before: str
    today: str
    uid: int = 1000
    source: str = ""
    inbound: bool = False
    udp: bool = False
    words: tuple[str, ...] = ALL
    only_today: tuple[str, ...] = ()  # options that istio-1.0 lacks

    def ask(self, pod: Pod) -> str:
        """Who answers; without the address where it is the one that was asked for."""
        if self.udp:
            return pod.udp(self.address, self.port, uid=self.uid)
        answer = pod.tcp(self.address, self.port, uid=self.uid, source=self.source, inbound=self.inbound)
        shown = f"[{self.address}]" if ":" in self.address else self.address
        return answer.removesuffix(f" {shown}:{self.port}")


DNS = ("--redirect-dns", "--capture-all-dns")
TPROXY = (*ALL, "-m", "TPROXY")
QUESTIONS = [
    Question("inbound TCP", POD, APP, "outbound", "inbound", inbound=True),
    Question("inbound TCP by TPROXY", POD, APP, "outbound", "inbound", inbound=True, words=TPROXY),
    Question(
        "inbound TCP by TPROXY, to an application that listens on the Pod's address only",
        POD, ON_ADDRESS, "app", "inbound", inbound=True, words=TPROXY,
    ),
    Question("inbound SSH", POD, SSH, "app", "inbound", inbound=True),
    Question("inbound TCP to port 15008", POD, TUNNEL, "outbound", "tunnel", inbound=True),
    Question("the application calls the Pod's own address", POD, APP, "outbound", "app"),
    Question("the application calls 127.0.0.2", "127.0.0.2", APP, "outbound", "app"),
    Question("the proxy calls the Pod's own address", POD, APP, "outbound", "inbound", uid=PROXY_ID),
    Question(
        "the proxy hands on from 127.0.0.6", POD, APP, "outbound", "app", uid=PROXY_ID, source="127.0.0.6",
    ),
    Question(
        "outbound TCP of root, without -u", SERVER, 80, "server", "outbound", uid=ROOT_ID, words=("-b", "*", "-i", "*"),
    ),
    Question("outbound TCP to port 53 with DNS capture", SERVER, 53, "outbound", "dns", only_today=DNS),
    Question("outbound DNS over UDP with DNS capture", SERVER, 53, "resolver", "dns", udp=True, only_today=DNS),
    Question("inbound IPv6", POD6, APP, "timeout", "app", inbound=True),
    Question("inbound IPv6, dual stack", POD6, APP, "timeout", "inbound", inbound=True, only_today=("--dual-stack",)),
    Question("outbound IPv6, dual stack", SERVER6, 80, "server", "outbound", only_today=("--dual-stack",)),
    Question("a call to ::1", "::1", APP, "timeout", "app"),
    Question("a call to the Pod's own IPv6 address", POD6, APP, "timeout", "app"),
]  # fmt: skip


@pytest.fixture(scope="module")
def pod() -> Iterator[Pod]:
    """One Pod for all questions; each applies its own rules."""
    with new_pod() as made:
        yield made


@pytest.mark.parametrize("question", QUESTIONS, ids=lambda question: question.line)
def test_a_line_of_the_page_is_true(pod: Pod, question: Question) -> None:
    pod.pod.mesh_iptables("clean", *BACKEND)
    pod.pod.mesh_iptables("apply", *OLD, *BACKEND, *question.words)
    assert question.ask(pod) == question.before
    pod.pod.mesh_iptables("apply", *NEW, *BACKEND, *question.words, *question.only_today)
    assert question.ask(pod) == question.today


NAMES = {
    "outbound": "the proxy's outbound port",
    "inbound": "the proxy's inbound port",
    "app": "the application",
    "server": "the server",
    "resolver": "the resolver",
    "dns": "the proxy's DNS port",
    "tunnel": "the proxy's tunnel port",
    "timeout": "nobody: it times out",
}


def test_the_page_has_a_line_for_every_question_and_no_other() -> None:
    rows = [
        line for line in PAGE.read_text().splitlines() if line.startswith("| ") and not line.startswith("| traffic")
    ]
    told = {tuple(cell.strip() for cell in row.strip("|").split("|"))[:3] for row in rows if not row.startswith("|-")}
    asked = {(found.line, NAMES[found.before], NAMES[found.today]) for found in QUESTIONS}
    assert told == asked
