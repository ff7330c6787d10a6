from __future__ import annotations

import shutil
import ssl
import subprocess
from contextlib import suppress
from pathlib import Path

import pytest

from mesh_iptables.proxy.tls import TlsWire, names_match
from mesh_iptables.proxy.wire import Failure, TlsClient

from .world import FakeWire, World

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl makes the certificates")


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate for example.com that is its own authority."""
    folder = tmp_path_factory.mktemp("pki")
    words = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=example.com"
    files = ["-addext", "subjectAltName=DNS:example.com", "-keyout", "key.pem", "-out", "cert.pem"]
    subprocess.run(["openssl", *words.split(), *files], cwd=folder, check=True, capture_output=True)
    return folder


class Owner:
    """The handler of a TLS wire; remembers what it is told."""

    def __init__(self) -> None:
        self.told: list[object] = []

    def connected(self) -> None:
        self.told.append("connected")

    def received(self, data: bytes) -> None:
        self.told.append(data)

    def ended(self) -> None:
        self.told.append("ended")

    def broken(self, failure: Failure, detail: str) -> None:  # noqa: ARG002
        self.told.append(failure)

    def drained(self) -> None: ...


class Site:
    """The server's end, in memory."""

    def __init__(self, pki: Path, *, clients: bool = False) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(pki / "cert.pem", pki / "key.pem")
        if clients:
            context.verify_mode = ssl.CERT_REQUIRED
            context.load_verify_locations(pki / "cert.pem")
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self.incoming, self.outgoing, server_side=True)

    def hears(self, data: bytes) -> bytes:
        """What it answers to bytes."""
        self.incoming.write(data)
        with suppress(ssl.SSLError):
            self.tls.do_handshake()
        return self.outgoing.read()


def handshake(client: TlsClient, site: Site) -> tuple[TlsWire, Owner, FakeWire]:
    owner = Owner()
    wire = TlsWire(World(), client, owner, ("192.0.2.1", 443), 5.0)  # type: ignore[arg-type]
    below = FakeWire(wire, ("192.0.2.1", 443))
    wire.start(below)
    below.connects()
    for _ in range(4):
        data = below.take()
        if not data:
            break
        answer = site.hears(data)
        for at in range(0, len(answer), 100):  # in pieces, as a network would
            if not below.closed:
                below.says(answer[at : at + 100])
    return wire, owner, below


def demand(pki: Path, *names: str, ca: str = "cert.pem", **more: object) -> TlsClient:
    values: dict[str, object] = {
        "certificate": None,
        "private_key": None,
        "ca_file": str(pki / ca),
        "sni": "example.com",
        "names": names,
        "verify": True,
        **more,
    }
    return TlsClient(**values)  # type: ignore[arg-type]


def test_bytes_are_encrypted_and_decrypted(pki: Path) -> None:
    site = Site(pki)
    wire, owner, below = handshake(demand(pki, "example.com"), site)
    assert owner.told == ["connected"]
    wire.send(b"ask")
    site.incoming.write(below.take())
    assert site.tls.read(9) == b"ask"
    site.tls.write(b"answer")
    below.says(site.outgoing.read())
    assert owner.told[1:] == [b"answer"]


@pytest.mark.parametrize("name", ["other.com", "a.example.com"])
def test_a_certificate_for_another_name_is_a_failed_connection(pki: Path, name: str) -> None:
    _, owner, below = handshake(demand(pki, name), Site(pki))
    assert owner.told == [Failure.CONNECT]
    assert below.closed


def test_a_certificate_nobody_vouches_for_is_a_failed_connection(pki: Path) -> None:
    _, owner, _ = handshake(demand(pki, ca_file=None), Site(pki))
    assert owner.told == [Failure.CONNECT]


def test_a_missing_file_is_a_failed_connection(pki: Path) -> None:
    _, owner, _ = handshake(demand(pki, ca="nowhere.pem"), Site(pki))
    assert owner.told == [Failure.CONNECT]


def test_verification_may_be_switched_off(pki: Path) -> None:
    _, owner, _ = handshake(demand(pki, ca_file=None, verify=False), Site(pki))
    assert owner.told == ["connected"]


def test_a_client_certificate_is_shown(pki: Path) -> None:
    own = {"certificate": str(pki / "cert.pem"), "private_key": str(pki / "key.pem")}
    site = Site(pki, clients=True)
    _, owner, _ = handshake(demand(pki, "example.com", **own), site)
    assert owner.told == ["connected"]
    assert site.tls.getpeercert() is not None


def test_a_site_that_closes_in_the_handshake(pki: Path) -> None:
    owner = Owner()
    wire = TlsWire(World(), demand(pki), owner, ("192.0.2.1", 443), 5.0)  # type: ignore[arg-type]
    below = FakeWire(wire, ("192.0.2.1", 443))
    wire.start(below)
    below.connects()
    below.ends()
    assert owner.told == [Failure.TERMINATION]


@pytest.fixture
def alternatives() -> dict[str, object]:
    return {"subjectAltName": (("DNS", "example.com"), ("DNS", "*.wild.example.com"), ("IP Address", "192.0.2.1"))}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("example.com", True),
        ("EXAMPLE.com", True),
        ("example.com.", False),
        ("a.wild.example.com", True),
        ("a.b.wild.example.com", False),
        ("wild.example.com", False),
        ("192.0.2.1", True),
        ("ample.com", False),
    ],
)
def test_names_are_compared_with_the_certificates(alternatives: dict[str, object], name: str, expected: bool) -> None:
    assert names_match(alternatives, (name,)) is expected
