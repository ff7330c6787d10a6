"""Dialect istio-1.2x in the kernel: every case of its golden files, and real connections by every way in."""

from __future__ import annotations

import fcntl
import re
import socket
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from mesh_iptables.golden import Case, parse_case
from tests.netns.backends import EVERY, WORDS
from tests.netns.namespace import Namespace
from tests.netns.pod import (
    APP,
    LEFT_ALONE,
    MACHINE,
    OUTSIDE,
    OUTSIDE_SECOND,
    POD,
    POD6,
    POD_SECOND,
    PROXY_ID,
    ROOT_ID,
    SERVER,
    SERVER6,
    SSH,
    TUNNEL,
    Pod,
    new_pod,
)

DIALECT = ("--dialect", "istio-1.2x")
FOLDER = Path(__file__).parents[1] / "golden" / "cases"
CASES = [parse_case(path.stem, path.read_text()) for path in sorted(FOLDER.glob("istio-1.2x-*.txt"))]
ONLY_PRINTED = ("nobodys-group", "wheel", "eth0@x")  # words of this machine's that no kernel would take
APPLICABLE = [
    case
    for case in CASES
    if not any(word in " ".join((*case.words, *case.environment.values())) for word in ONLY_PRINTED)
]
BACKENDS = pytest.mark.parametrize("backend", EVERY)
EVERYTHING = ("-u", "1337", "-b", "*", "-d", str(LEFT_ALONE), "-i", "*", "--dual-stack")


@pytest.fixture
def pod() -> Iterator[Pod]:
    """A fresh Pod with its outside."""
    with new_pod() as made:
        yield made


def apply(pod: Pod, backend: str, *words: str, **environment: str) -> None:
    pod.pod.mesh_iptables("apply", *DIALECT, *WORDS[backend], *words, env=environment)


# -- every case: apply, again, foreign rules, a taint, clean


def arguments(case: Case, backend: str) -> tuple[str, ...]:
    words = [word for word in case.words if word != "--native-nftables"]
    if "--format" in words:
        place = words.index("--format")
        del words[place : place + 2]
    return (*words, *WORDS[backend])


def rules(namespace: Namespace, backend: str) -> str:
    """All rules in reach of a backend, with handles where there are any, without counters."""
    if backend == "native":
        text = namespace.run("nft", "-a", "list", "ruleset").stdout
        return re.sub(r"packets \d+ bytes \d+", "", text)
    flavour = "nft" if backend == "nft" else "legacy"
    texts = [namespace.run(f"{program}-{flavour}-save").stdout for program in ("iptables", "ip6tables")]
    return "".join(line + "\n" for text in texts for line in text.splitlines() if line[:2] in ("-A", "*n", "*m", "*r"))


def surroundings(namespace: Namespace) -> str:
    """Routing and addresses."""
    words = (("rule",), ("-6", "rule"), ("route", "show", "table", "all"), ("-6", "route", "show", "table", "all"))
    return "".join(namespace.run("ip", *found).stdout for found in (*words, ("addr",)))


def add_foreign_rules(namespace: Namespace, backend: str) -> None:
    if backend == "native":
        text = (
            "table ip foreign {\nchain out {\ntype filter hook output priority 0;\ntcp dport 9 counter accept\n}\n}\n"
        )
        namespace.run("nft", "-f", "-", stdin=text)
        return
    flavour = "nft" if backend == "nft" else "legacy"
    for words in (
        ("iptables", "-t", "nat", "-A", "PREROUTING", "-p", "tcp", "--dport", "9", "-j", "RETURN"),
        ("iptables", "-t", "nat", "-A", "PREROUTING", "-i", "docker0", "-j", "RETURN"),
        ("iptables", "-t", "nat", "-I", "OUTPUT", "-d", "192.0.2.1", "-j", "ACCEPT"),
        ("iptables", "-t", "mangle", "-A", "OUTPUT", "-p", "tcp", "-m", "mark", "--mark", "7", "-j", "RETURN"),
        ("ip6tables", "-t", "raw", "-A", "OUTPUT", "-d", "2001:db8::9", "-j", "ACCEPT"),
    ):
        namespace.run(f"{words[0]}-{flavour}", *words[1:])


def taint(namespace: Namespace, backend: str) -> None:
    if backend == "native":
        namespace.run("nft", "insert", "rule", "inet", "istio-proxy-nat", "istio-output", "counter", "accept")
    else:
        namespace.run(
            f"iptables-{'nft' if backend == 'nft' else 'legacy'}", "-t", "nat", "-I", "ISTIO_OUTPUT", "-j", "ACCEPT"
        )


def without_handles(text: str) -> list[str]:
    """The rules in no order: a table made anew goes to the end, and one emptied may stay."""
    return sorted(line for line in re.sub(r" # handle \d+", "", text).splitlines() if line[:1] != "*")


@BACKENDS
@pytest.mark.parametrize("case", APPLICABLE, ids=lambda case: case.path.removeprefix("istio-1.2x-"))
def test_a_case_is_applied_kept_repaired_and_cleaned(namespace: Namespace, case: Case, backend: str) -> None:
    words, environment = arguments(case, backend), dict(case.environment)
    before = surroundings(namespace)

    namespace.mesh_iptables("apply", *words, env=environment)
    applied = rules(namespace, backend)
    namespace.mesh_iptables("apply", *words, env=environment)
    assert rules(namespace, backend) == applied

    add_foreign_rules(namespace, backend)
    beside_foreign = rules(namespace, backend)
    namespace.mesh_iptables("apply", *words, env=environment)
    assert rules(namespace, backend) == beside_foreign

    taint(namespace, backend)
    namespace.mesh_iptables("apply", *words, env=environment)
    assert without_handles(rules(namespace, backend)) == without_handles(beside_foreign)

    namespace.mesh_iptables("clean", *WORDS[backend])
    left = rules(namespace, backend)
    assert "istio" not in left.lower()
    assert left.count("-A ") == (0 if backend == "native" else 5)
    assert surroundings(namespace) == before


@BACKENDS
def test_one_dialect_takes_the_place_of_the_other(namespace: Namespace, backend: str) -> None:
    old = ("-u", "1337", "-b", "*", "-i", "*", "-m", "TPROXY", *WORDS[backend])
    new = (*DIALECT, "-u", "1337", "-b", "*", "-i", "*", "-m", "TPROXY", "--ip-family", "dual", *WORDS[backend])
    namespace.mesh_iptables("apply", *old)
    first, routing = rules(namespace, backend), surroundings(namespace)
    namespace.mesh_iptables("apply", *new)
    assert without_handles(rules(namespace, backend)) != without_handles(first)
    namespace.mesh_iptables("apply", *old)
    assert without_handles(rules(namespace, backend)) == without_handles(first)
    assert surroundings(namespace) == routing


def test_interfaces_to_leave_alone_are_put_in_front_of_foreign_rules(namespace: Namespace) -> None:
    namespace.run("iptables-legacy", "-t", "nat", "-A", "PREROUTING", "-p", "tcp", "-j", "DNAT", "--to", "192.0.2.1")
    namespace.mesh_iptables("apply", *DIALECT, "-k", "net1", "-i", "*", "-u", "5", *WORDS["legacy"])
    chain = [line for line in rules(namespace, "legacy").splitlines() if "PREROUTING" in line]
    assert [line.rpartition(" -j ")[2].split(" ")[0] for line in chain] == ["ISTIO_REDIRECT", "RETURN", "DNAT"]


# -- real connections


@BACKENDS
@pytest.mark.parametrize("mode", ["REDIRECT", "TPROXY"])
def test_inbound_connections_reach_the_proxy_with_their_destination(pod: Pod, backend: str, mode: str) -> None:
    apply(pod, backend, *EVERYTHING, "-m", mode)
    assert pod.tcp(POD, APP, inbound=True) == f"inbound {POD}:{APP}"
    assert pod.tcp(POD, SSH, inbound=True) == f"inbound {POD}:{SSH}"
    assert pod.tcp(POD, 9999, inbound=True) == f"inbound {POD}:9999"
    assert pod.tcp(POD6, APP, inbound=True) == f"inbound [{POD6}]:{APP}"
    assert pod.tcp(POD, LEFT_ALONE, inbound=True) == f"app {POD}:{LEFT_ALONE}"
    if mode == "REDIRECT":  # TPROXY knows no tunnel port: its chain is in another table
        assert pod.tcp(POD, TUNNEL, inbound=True) == f"tunnel {POD}:{TUNNEL}"


@BACKENDS
def test_outbound_connections_reach_the_proxy_with_their_destination(pod: Pod, backend: str) -> None:
    apply(pod, backend, *EVERYTHING)
    for uid in (ROOT_ID, 1000):
        assert pod.tcp(SERVER, 80, uid=uid) == f"outbound {SERVER}:80"
        assert pod.tcp(SERVER6, 80, uid=uid) == f"outbound [{SERVER6}]:80"
    assert pod.tcp(SERVER, 80, uid=PROXY_ID) == f"server {SERVER}:80"
    assert pod.tcp(SERVER6, 80, uid=PROXY_ID) == f"server [{SERVER6}]:80"
    assert pod.tcp(SERVER, 80, gid=PROXY_ID) == f"server {SERVER}:80"


@BACKENDS
def test_calls_of_the_pod_to_itself(pod: Pod, backend: str) -> None:
    apply(pod, backend, *EVERYTHING)
    for address, shown in ((POD, POD), (POD6, f"[{POD6}]"), ("127.0.0.1", "127.0.0.1"), ("::1", "[::1]")):
        assert pod.tcp(address, APP) == f"app {shown}:{APP}"
    assert pod.tcp(POD, APP, uid=PROXY_ID) == f"inbound {POD}:{APP}"
    assert pod.tcp(POD6, APP, uid=PROXY_ID) == f"inbound [{POD6}]:{APP}"
    assert pod.tcp(POD, APP, uid=PROXY_ID, source="127.0.0.6") == f"app {POD}:{APP}"
    assert pod.tcp(POD6, APP, uid=PROXY_ID, source="::6") == f"app [{POD6}]:{APP}"


@BACKENDS
def test_tproxy_tells_calls_of_the_pod_to_itself_apart_by_their_mark(pod: Pod, backend: str) -> None:
    apply(pod, backend, *EVERYTHING, "-m", "TPROXY")
    assert pod.tcp(POD, APP) == f"app {POD}:{APP}"
    assert pod.tcp(POD, APP, uid=PROXY_ID) == f"inbound {POD}:{APP}"


@BACKENDS
def test_without_dual_stack_an_ipv4_pod_leaves_ipv6_alone(pod: Pod, backend: str) -> None:
    apply(pod, backend, "-u", "1337", "-b", "*", "-i", "*")
    assert pod.tcp(POD, APP, inbound=True) == f"inbound {POD}:{APP}"
    # Native nft is one table for both families: rules without an address hold for IPv6 too, as in the original.
    inbound, outbound = ("inbound", "outbound") if backend == "native" else ("app", "server")
    assert pod.tcp(POD6, APP, inbound=True) == f"{inbound} [{POD6}]:{APP}"
    assert pod.tcp(SERVER6, 80) == f"{outbound} [{SERVER6}]:80"


def test_a_pod_whose_first_address_is_ipv6_is_captured_in_both(pod: Pod) -> None:
    pod.pod.run("ip", "-4", "addr", "flush", "scope", "global")
    apply(pod, "legacy", "-u", "1337", "-b", "*")
    assert pod.tcp(POD6, APP, inbound=True) == f"inbound [{POD6}]:{APP}"


@BACKENDS
def test_destinations_and_ports_are_included_and_excluded(pod: Pod, backend: str) -> None:
    listed = ("-u", "1337", "--dual-stack", "-i", f"{SERVER}/32,{SERVER6}/128", "-x", f"{SERVER6}/128", "-o", "3306")
    apply(pod, backend, *listed, "-q", "81")
    assert pod.tcp(SERVER, 80) == f"outbound {SERVER}:80"
    assert pod.tcp(SERVER, 3306) == f"server {SERVER}:3306"
    assert pod.tcp(OUTSIDE, 80) == f"server {OUTSIDE}:80"
    assert pod.tcp(OUTSIDE, 81) == f"outbound {OUTSIDE}:81"
    assert pod.tcp(SERVER6, 80) == f"server [{SERVER6}]:80"


@BACKENDS
def test_owner_groups_choose_whose_connections_are_captured(pod: Pod, backend: str) -> None:
    apply(pod, backend, "-u", "1337", "-i", "*", ISTIO_OUTBOUND_OWNER_GROUPS="2000,2001")
    assert pod.tcp(SERVER, 80, gid=2000) == pod.tcp(SERVER, 80, gid=2001) == f"outbound {SERVER}:80"
    assert pod.tcp(SERVER, 80, gid=2002) == f"server {SERVER}:80"
    apply(pod, backend, "-u", "1337", "-i", "*", ISTIO_OUTBOUND_OWNER_GROUPS_EXCLUDE="2000")
    assert pod.tcp(SERVER, 80, gid=2000) == f"server {SERVER}:80"
    assert pod.tcp(SERVER, 80, gid=2001) == f"outbound {SERVER}:80"


@BACKENDS
def test_dns_is_redirected_for_the_application_and_not_for_the_proxy(pod: Pod, backend: str) -> None:
    apply(pod, backend, *EVERYTHING, "--redirect-dns", "--capture-all-dns")
    for server, shown in ((SERVER, SERVER), (SERVER6, f"[{SERVER6}]")):
        assert pod.udp(server, 53) == "dns"
        assert pod.udp(server, 53, uid=PROXY_ID) == "resolver"
        assert pod.tcp(server, 53) == f"dns {shown}:53"
        assert pod.tcp(server, 53, uid=PROXY_ID) == f"resolver {shown}:53"


@BACKENDS
def test_only_dns_to_the_given_resolvers_is_redirected(pod: Pod, backend: str) -> None:
    apply(pod, backend, "-u", "1337", "--dual-stack", "--redirect-dns", "--dns-servers", f"{SERVER},{SERVER6}")
    assert pod.udp(SERVER, 53) == pod.udp(SERVER6, 53) == "dns"
    assert pod.udp(OUTSIDE, 53) == "resolver"
    assert pod.tcp(OUTSIDE, 53) == f"resolver {OUTSIDE}:53"


@BACKENDS
def test_a_source_port_that_application_and_proxy_both_use_is_kept_apart_by_zones(pod: Pod, backend: str) -> None:
    apply(pod, backend, *EVERYTHING, "--redirect-dns", "--capture-all-dns")
    assert pod.udp(SERVER, 53, source_port=7777) == "dns"
    assert pod.udp(SERVER, 53, uid=PROXY_ID, source_port=7777) == "resolver"
    assert pod.udp(SERVER, 53, uid=PROXY_ID, source_port=7778) == "resolver"
    assert pod.udp(SERVER, 53, source_port=7778) == "dns"


def test_without_zones_that_source_port_would_lead_the_proxy_to_itself(pod: Pod) -> None:
    apply(pod, "legacy", *EVERYTHING, "--redirect-dns", "--capture-all-dns")
    pod.pod.run("iptables-legacy", "-t", "raw", "-F")
    assert pod.udp(SERVER, 53, source_port=7777) == "dns"
    assert pod.udp(SERVER, 53, uid=PROXY_ID, source_port=7777) == "dns"


def checksum(data: bytes) -> int:
    total = sum(int.from_bytes(data[place : place + 2].ljust(2, b"\0")) for place in range(0, len(data), 2))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def bare_acknowledgement(source_port: int, sequence: int, acknowledged: int) -> bytes:
    """A TCP segment from the outside to the application without data."""
    numbers = (sequence % 2**32).to_bytes(4) + (acknowledged % 2**32).to_bytes(4)
    segment = source_port.to_bytes(2) + APP.to_bytes(2) + numbers + b"\x50\x10\x10\x00\x00\x00\x00\x00"
    pseudo = socket.inet_aton(OUTSIDE) + socket.inet_aton(POD) + b"\0\6" + len(segment).to_bytes(2)
    return segment[:16] + checksum(pseudo + segment).to_bytes(2) + segment[18:]


def segments_for(raw: socket.socket, source_port: int, seconds: float) -> Iterator[bytes]:
    """TCP segments to a port of the outside that arrive in so many seconds."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        with suppress(TimeoutError):
            packet = raw.recv(2000)
            segment = packet[(packet[0] & 15) * 4 :]
            if int.from_bytes(segment[2:4]) == source_port:
                yield segment


def resets_after_a_stray_packet(pod: Pod) -> int:
    """Open a captured inbound connection, send an ACK far ahead of it, count the resets that answer it."""
    with pod.outside.entered():
        raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_TCP)
        client = socket.create_connection((POD, APP), timeout=2)
    with raw, client:
        raw.settimeout(0.05)
        source_port = client.getsockname()[1]
        opening = next(found for found in segments_for(raw, source_port, 2) if found[13] & 0x12 == 0x12)
        theirs, ours = int.from_bytes(opening[4:8]), int.from_bytes(opening[8:12])
        raw.sendto(bare_acknowledgement(source_port, ours + 0x10000000, theirs + 1), (POD, 0))
        return sum(segment[13] & 4 > 0 for segment in segments_for(raw, source_port, 0.4))


@BACKENDS
def test_packets_outside_their_connection_are_dropped_and_no_reset_answers_them(pod: Pod, backend: str) -> None:
    apply(pod, backend, *EVERYTHING)
    assert resets_after_a_stray_packet(pod) > 0
    apply(pod, backend, *EVERYTHING, "--drop-invalid")
    assert resets_after_a_stray_packet(pod) == 0
    assert pod.tcp(POD, APP, inbound=True) == f"inbound {POD}:{APP}"


@BACKENDS
@pytest.mark.parametrize("mode", ["REDIRECT", "TPROXY"])
def test_an_excluded_interface_is_left_alone_both_ways(pod: Pod, backend: str, mode: str) -> None:
    apply(pod, backend, *EVERYTHING, "-m", mode, "-c", "net1")
    assert pod.tcp(POD_SECOND, APP, inbound=True) == f"app {POD_SECOND}:{APP}"
    assert pod.tcp(OUTSIDE_SECOND, 80) == f"server {OUTSIDE_SECOND}:80"
    assert pod.tcp(POD, APP, inbound=True) == f"inbound {POD}:{APP}"
    assert pod.tcp(OUTSIDE, 80) == f"outbound {OUTSIDE}:80"


@BACKENDS
@pytest.mark.parametrize("ranges", ["*", "10.66.0.0/24"])
def test_what_a_virtual_machine_sends_is_treated_as_outbound(pod: Pod, backend: str, ranges: str) -> None:
    apply(pod, backend, "-u", "1337", "-b", "*", "-i", ranges, "-k", "net1")
    assert pod.tcp(MACHINE, 80, inbound=True) == f"outbound {MACHINE}:80"
    assert pod.tcp(POD, APP, inbound=True) == f"inbound {POD}:{APP}"


# -- the fixes, each by the traffic that it changes


@BACKENDS
def test_n1_every_owner_reaches_the_pod_itself_through_the_proxy(pod: Pod, backend: str) -> None:
    words = ("-u", "1337,1338", "-g", "1400", "-b", "*", "-i", "*")
    apply(pod, backend, *words)
    assert pod.tcp(POD, APP, uid=1337) == f"inbound {POD}:{APP}"
    assert pod.tcp(POD, APP, uid=1338) == pod.tcp(POD, APP, uid=5, gid=1400) == f"app {POD}:{APP}"
    apply(pod, backend, *words, "--fix", "N1")
    for uid, gid in ((1337, 5), (1338, 5), (5, 1400)):
        assert pod.tcp(POD, APP, uid=uid, gid=gid) == f"inbound {POD}:{APP}"
    assert pod.tcp(POD, APP) == f"app {POD}:{APP}"


@BACKENDS
def test_n2_dns_of_a_group_to_the_pod_itself_is_no_call_to_the_application(pod: Pod, backend: str) -> None:
    pod.listen_in_pod("local-dns", POD, 53)
    words = ("-u", "1337", "-b", "*", "-i", "*", "--redirect-dns", "--dns-servers", SERVER)
    apply(pod, backend, *words)
    assert pod.tcp(POD, 53, uid=1337) == f"local-dns {POD}:53"
    assert pod.tcp(POD, 53, uid=5, gid=1337) == f"inbound {POD}:53"
    apply(pod, backend, *words, "--fix", "N2")
    assert pod.tcp(POD, 53, uid=5, gid=1337) == f"local-dns {POD}:53"


@BACKENDS
def test_n8_an_empty_list_of_groups_captures_everybody(pod: Pod, backend: str) -> None:
    apply(pod, backend, *EVERYTHING, ISTIO_OUTBOUND_OWNER_GROUPS="")
    assert pod.tcp(SERVER, 80) == f"server {SERVER}:80"
    apply(pod, backend, *EVERYTHING, "--fix", "N8", ISTIO_OUTBOUND_OWNER_GROUPS="")
    assert pod.tcp(SERVER, 80) == f"outbound {SERVER}:80"


@BACKENDS
def test_n9_a_group_that_nobody_knows_does_not_keep_the_others_from_being_captured(pod: Pod, backend: str) -> None:
    words = ("apply", *DIALECT, *WORDS[backend], *EVERYTHING)
    groups = {"ISTIO_OUTBOUND_OWNER_GROUPS": "2000,nobodys-group"}
    refused = pod.pod.mesh_iptables(*words, check=False, env=groups)
    assert refused.returncode == 1
    assert "'nobodys-group' is no group here" in refused.stderr
    assert pod.tcp(SERVER, 80, gid=2000) == f"server {SERVER}:80"
    pod.pod.mesh_iptables(*words, "--fix", "N9", env=groups)
    assert pod.tcp(SERVER, 80, gid=2000) == f"outbound {SERVER}:80"
    assert pod.tcp(SERVER, 80, gid=2001) == f"server {SERVER}:80"


@BACKENDS
def test_n12_tproxy_without_inbound_ports_marks_nothing(pod: Pod, backend: str) -> None:
    marked = "meta mark 1338 tcp dport 15006 reject with tcp reset"
    firewall = f"table ip foreign {{ chain in {{ type filter hook input priority 0; {marked}; }}; }}"
    pod.pod.run("nft", "-f", "-", stdin=firewall)
    apply(pod, backend, "-u", "1337", "-m", "TPROXY")
    assert pod.tcp(POD, APP, uid=PROXY_ID) == "refused"
    apply(pod, backend, "-u", "1337", "-m", "TPROXY", "--fix", "N12")
    assert pod.tcp(POD, APP, uid=PROXY_ID) == f"inbound {POD}:{APP}"


def stray_echo_replies(pod: Pod) -> bool:
    """Whether an answer to a question that nobody asked arrives in the Pod."""
    body = b"\0\0\0\0\x12\x34\0\1stray"
    packet = body[:2] + checksum(body).to_bytes(2) + body[4:]
    with pod.pod.entered():
        receiver = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
    with receiver:
        receiver.settimeout(0.3)
        with pod.outside.entered():
            sender = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
        with sender:
            sender.sendto(packet, (POD, 0))
        try:
            return b"stray" in receiver.recv(200)
        except TimeoutError:
            return False


@pytest.mark.parametrize("backend", ["legacy", "nft"])
def test_n15_only_invalid_packets_of_tcp_are_dropped(pod: Pod, backend: str) -> None:
    apply(pod, backend, *EVERYTHING, "--drop-invalid")
    assert not stray_echo_replies(pod)
    apply(pod, backend, *EVERYTHING, "--drop-invalid", "--fix", "N15")
    assert stray_echo_replies(pod)
    assert resets_after_a_stray_packet(pod) == 0


@BACKENDS
def test_n17_dns_of_a_family_without_resolver_keeps_its_conntrack_zone(pod: Pod, backend: str) -> None:
    firewall = """table ip6 foreign { chain in { type filter hook input priority 0;
        udp sport 53 ct state established accept; udp sport 53 drop; }; }"""
    pod.pod.run("nft", "-f", "-", stdin=firewall)
    words = ("-u", "1337", "--dual-stack", "--redirect-dns", "--dns-servers", SERVER)
    if backend != "native":  # there one rule for answers holds for both families
        apply(pod, backend, *words)
        assert pod.udp(SERVER6, 53, uid=PROXY_ID) == "timeout"
    apply(pod, backend, *words, "--fix", "N17")
    assert pod.udp(SERVER6, 53, uid=PROXY_ID) == "resolver"
    assert pod.udp(SERVER, 53) == "dns"
    assert pod.udp(SERVER, 53, uid=PROXY_ID) == "resolver"


# -- what the options about the run do


@BACKENDS
def test_validation_proves_the_rules_and_ends_with_126_without_them(pod: Pod, backend: str) -> None:
    only = ("apply", *DIALECT, "--run-validation", "--skip-rule-apply", "--iptables-probe-port", "15002")
    # The probe listens at the proxy's own addresses, so the stand-in has to make room.
    pod.stop()
    pod.close_listeners()
    failed = pod.pod.mesh_iptables(*only, "--probe-timeout", "300ms", check=False)
    assert failed.returncode == 126
    assert "did not arrive" in failed.stderr
    apply(pod, backend, *EVERYTHING)
    assert "arrived at the proxy's port 15006" in pod.pod.mesh_iptables(*only).stdout
    assert "arrived at the proxy's port 15006" in pod.pod.mesh_iptables(*only, "--dual-stack").stdout
    wide = {"ISTIO_OUTBOUND_IPV4_LOOPBACK_CIDR": "127.0.0.1/8"}
    apply(pod, backend, "-u", "1337", **wide)
    assert f"a connection to {POD} port" in pod.pod.mesh_iptables(*only, env=wide).stdout


def test_skipped_rules_leave_what_is_there(namespace: Namespace) -> None:
    namespace.mesh_iptables("apply", *DIALECT, "-u", "5", *WORDS["legacy"])
    before = rules(namespace, "legacy")
    namespace.mesh_iptables("apply", *DIALECT, "-u", "6", "--skip-rule-apply", *WORDS["legacy"])
    assert rules(namespace, "legacy") == before


def test_the_originals_own_options_choose_backend_namespace_and_cleaning(namespace: Namespace) -> None:
    from tests.netns.namespace import PREFIX

    assert namespace.name.startswith(PREFIX)
    path = f"/run/netns/{namespace.name}"
    settings = {"NETWORK_NAMESPACE": path, "CNI_MODE": "true", "MESH_IPTABLES_DIALECT": "istio-1.2x", "PROXY_UID": "5"}
    namespace.mesh_iptables("apply", "--force-iptables-binary", "legacy", env=settings)
    assert "--uid-owner 5" in rules(namespace, "legacy")
    namespace.mesh_iptables("apply", "--native-nftables", "--reconcile", "--force-apply", env=settings)
    assert "istio-proxy-nat" in rules(namespace, "native")
    assert "ISTIO" not in rules(namespace, "legacy")
    namespace.mesh_iptables("apply", "--cleanup-only", env=settings)
    assert "istio" not in rules(namespace, "native")


def test_a_dry_run_touches_nothing_and_may_be_written_to_a_file(namespace: Namespace, tmp_path: Path) -> None:
    file = tmp_path / "recorded"
    file.write_text("longer than what comes\n" * 1000)
    environment = {"DRY_RUN": "true", "DRY_RUN_FILE_PATH": str(file)}
    namespace.mesh_iptables("apply", *DIALECT, "-u", "1337", "-b", "*", env=environment)
    assert file.read_text().startswith("iptables-save\nip6tables-save\n* nat\n")
    assert file.read_text().endswith("COMMIT\niptables-save\n")
    namespace.mesh_iptables("apply", *DIALECT, "--native-nftables", env=environment)
    assert file.read_text().startswith("add table inet istio-proxy-nat\n")
    assert namespace.run("nft", "list", "ruleset").stdout == ""


def test_a_cni_plug_in_does_not_wait_for_the_lock_of_the_node(namespace: Namespace, tmp_path: Path) -> None:
    path = f"/run/netns/{namespace.name}"
    words = ("apply", *DIALECT, "--network-namespace", path, "-u", "5", *WORDS["legacy"], "--wait", "1")
    lock = tmp_path / "node.lock"
    with lock.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        waiting = namespace.mesh_iptables(*words, env={"XTABLES_LOCKFILE": str(lock)}, check=False)
        assert waiting.returncode == 4
    with open(path) as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        waiting = namespace.mesh_iptables(*words, "--cni-mode", check=False)
        assert waiting.returncode == 4
    namespace.mesh_iptables(*words, "--cni-mode")
    assert "--uid-owner 5" in rules(namespace, "legacy")
