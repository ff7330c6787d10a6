"""Options of istio-1.2x: where settings come from, which source wins, and what is refused with which words."""

from __future__ import annotations

import pytest

from mesh_iptables.config_1_2x import Config, RunSettings
from mesh_iptables.errors import UsageError
from mesh_iptables.model import UNKNOWN_ID
from mesh_iptables.options import Option, Setting, split_words
from mesh_iptables.options_1_2x import (
    FIXES,
    ISTIO_1_2X,
    configure,
    gather,
    parse_duration,
    run_settings,
    warnings,
)

from .names import FewNames
from .surroundings import FewSurroundings

FILES = {"/nets": b"10.0.0.0/8  # one\n\nfd00::/8\n"}


def settings_of(*words: str, **environment: str) -> dict[str, Setting]:
    return gather(split_words(words, ISTIO_1_2X).rules, environment, FILES.get)


def configured(*words: str, here: FewSurroundings | None = None, **environment: str) -> Config:
    """The checked settings; a dry run where nothing is said about the surroundings."""
    return configure(settings_of(*words, **environment), FewNames(), here)


def run_of(*words: str, **environment: str) -> RunSettings:
    return run_settings(settings_of(*words, **environment))


def said(*words: str, **environment: str) -> list[str]:
    settings = settings_of(*words, **environment)
    return list(warnings(configure(settings, FewNames(), None), settings))


def refusal(*words: str, here: FewSurroundings | None = None, **environment: str) -> str:
    with pytest.raises(UsageError) as caught:
        configured(*words, here=here, **environment)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_the_defaults_are_the_originals() -> None:
    config = configured()
    ports = (config.proxy_port, config.inbound_capture_port, config.tunnel_port)
    assert [port.low for port in ports] == [15001, 15006, 15008]
    assert [owner.low for owner in (*config.proxy_uids, *config.proxy_gids)] == [1337, 1337]
    assert (config.tproxy_mark.value, config.tproxy_route_table.value) == (1337, 133)
    assert config.mode == "REDIRECT"
    assert config.owner_groups.wildcard
    switches = (config.ipv6, config.dns.enabled, config.drop_invalid, bool(config.inbound_ports), bool(config.fixes))
    assert not any(switches)
    assert run_of() == RunSettings(False, "", False, False, "", False, False, "", False, 15002, 5.0)


@pytest.mark.parametrize("option", [option for option in ISTIO_1_2X if option.words], ids=lambda option: option.name)
def test_every_word_of_an_option_gives_its_setting(option: Option) -> None:
    for word in option.words:
        value = [] if not option.metavar else ["something"]
        assert settings_of(word, *value)[option.name].text == (value or ["true"])[0]


@pytest.mark.parametrize("option", [option for option in ISTIO_1_2X if option.variable], ids=lambda option: option.name)
def test_every_variable_gives_its_setting_and_an_empty_one_the_default(option: Option) -> None:
    assert settings_of(**{option.variable: "something"})[option.name] == Setting("something", option.variable)
    if option.name != "owner_groups":
        assert settings_of(**{option.variable: ""})[option.name].text == option.default


@pytest.mark.parametrize(
    ("own", "additional", "name"),
    [
        ("REDIRECT_DNS", "ISTIO_META_DNS_CAPTURE", "redirect_dns"),
        ("DROP_INVALID", "INVALID_DROP", "drop_invalid"),
        ("DUAL_STACK", "ISTIO_DUAL_STACK", "dual_stack"),
    ],
)
def test_an_option_beats_the_additional_variable_and_that_the_own_one(own: str, additional: str, name: str) -> None:
    word = f"--{name.replace('_', '-')}"
    assert settings_of(**{own: "true"})[name].text == "true"
    assert settings_of(**{own: "true", additional: "false"})[name].text == "false"
    assert settings_of(word, **{own: "false", additional: "false"})[name].text == "true"
    assert settings_of(f"{word}=false", **{additional: "true"})[name].text == "false"


def test_the_variable_of_the_proxy_port_is_only_printed() -> None:
    assert configured(ENVOY_PORT="1").proxy_port.low == 15001
    assert said(ENVOY_PORT="1") == ["ENVOY_PORT: is only printed, as by istio-iptables; the port is 15001, of -p"]
    assert said("-p", "1", ENVOY_PORT="1") == []


@pytest.mark.parametrize("text", ["1", "t", "T", "TRUE", "true", "True"])
def test_what_is_true(text: str) -> None:
    assert configured(f"--drop-invalid={text}").drop_invalid


@pytest.mark.parametrize("text", ["0", "f", "F", "FALSE", "false", "False"])
def test_what_is_false(text: str) -> None:
    assert not configured(DROP_INVALID=text).drop_invalid


@pytest.mark.parametrize(
    ("text", "seconds"), [("5s", 5), ("1m30s", 90), ("500ms", 0.5), ("1.5h", 5400), ("0", 0), ("2us", 2e-6)]
)
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "5", "s", "5x", "-5s", "1..5s", ".s", "5 s"])
def test_a_duration_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not a duration"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--drop-invalid=yes"], "--drop-invalid: 'yes' is neither true nor false"),
        (["-m", "tproxy"], "-m: 'tproxy' is not a mode"),
        (["-b", "80,x!"], "-b: 'x!' is not a port"),
        (["-b", "80,*"], "-b: '*' is not a port"),
        (["-o", "80,0x50"], "-o: '0x50' is not a plain decimal number"),
        (["-o", "80:0120"], "-o: '80:0120' is not a plain decimal number"),
        (["-p", "65536"], "-p: '65536' is not a port"),
        (["-i", "10.0.0.1"], "-i: '10.0.0.1' has no prefix length"),
        (["-i", "10.0.0.0/255.0.0.0"], "-i: '10.0.0.0/255.0.0.0' has no prefix length"),
        (["-i", "10.0.0.0/33"], "-i: '10.0.0.0/33' has no prefix length"),
        (["-i", "10.0.0/8"], "-i: '10.0.0/8' is not a network"),
        (["-i", "10.0.0.0/8,*"], "-i: '*' is not a network"),
        (["-x", "*"], "-x: '*' would exclude every destination"),
        (["-x", "-b"], "-x: '-b' is not a network"),
        (["-c", "an-interface-with-a-long-name"], "-c: 'an-interface-with-a-long-name' is not the name"),
        (["-k", "eth0 eth1"], "-k: 'eth0 eth1' is not the name"),
        (["-t", "0x539"], "-t: '0x539' is not a mark"),
        (["-t", "0"], "-t: '0' is not a mark"),
        (["-r", "main"], "-r: 'main' is not a free routing table"),
        (["-r", "254"], "-r: '254' is not a free routing table"),
        (["--ip-family", "ipv6"], "--ip-family: 'ipv6' is not one of auto, ipv4, dual"),
        (["--dns-servers", "resolver"], "--dns-servers: 'resolver' is not the address of a resolver"),
        (["--fix", "N1,N3"], "--fix: 'N3' is not one of"),
        (["-m", "TPROXY", "-z", "1-2"], "-z: '1-2' is a range, and TPROXY takes one port only"),
    ],
)
def test_what_no_tool_would_take_is_refused(words: list[str], complaint: str) -> None:
    assert refusal(*words).startswith(complaint)


def test_a_variable_that_the_original_would_pass_over_is_refused() -> None:
    assert refusal(REDIRECT_DNS="yes").startswith("REDIRECT_DNS: 'yes' is neither true nor false")
    with pytest.raises(UsageError, match=r"^PROBE_TIMEOUT: '5' is not a duration"):
        run_of(PROBE_TIMEOUT="5")
    with pytest.raises(UsageError, match=r"^IPTABLES_PROBE_PORT: '70000' is not a port"):
        run_of(IPTABLES_PROBE_PORT="70000")
    with pytest.raises(UsageError, match=r"^FORCE_IPTABLES_BINARY: 'xtables' is not a flavour"):
        run_of(FORCE_IPTABLES_BINARY="xtables")


def test_empty_entries_of_a_list_do_not_count() -> None:
    assert [port.low for port in configured("-b", ",80,,443,").inbound_ports.include] == [80, 443]


def test_a_list_may_stand_in_a_file() -> None:
    ranges = configured("-i", "@/nets").outbound_ranges.include
    assert [network.spelled for network in ranges] == ["10.0.0.0/8", "fd00::/8"]


def test_host_bits_stay_in_the_spelling_and_ipv6_is_spelled_short() -> None:
    first, second = configured("-i", "10.1.2.3/8,FD00:0:0:0::0001/64").outbound_ranges.include
    assert (first.spelled, first.address) == ("10.1.2.3/8", 0x0A000000)
    assert second.spelled == "fd00::1/64"


@pytest.mark.parametrize(
    ("ranges", "is_loopback"),
    [("127.1.2.3/8", True), ("::1/128", True), ("10.0.0.0/8,127.0.0.1/32", True), ("0.0.0.0/0,::/0", False)],
)
def test_loopback_destinations_are_known(ranges: str, is_loopback: bool) -> None:
    assert configured("-i", ranges).outbound_loopback is is_loopback


@pytest.mark.parametrize("text", ["10.0.0.0/8", "127.0.0.0/7", "::1/128", "127.0.0.1"])
def test_the_loopback_network_is_part_of_127_8(text: str) -> None:
    assert refusal(ISTIO_OUTBOUND_IPV4_LOOPBACK_CIDR=text).startswith("ISTIO_OUTBOUND_IPV4_LOOPBACK_CIDR: ")


def test_the_proxys_user_is_asked_for_where_no_option_says_it_and_root_is_not_added() -> None:
    here = FewSurroundings(("10.0.0.1",))
    assert [owner.low for owner in configured(here=here).proxy_uids] == [4711]
    assert [owner.low for owner in configured().proxy_uids] == [1337]
    assert [owner.low for owner in configured(ENVOY_USER="daemon").proxy_gids] == [1]


def test_a_dry_run_takes_names_that_only_the_real_machine_may_know() -> None:
    (owner,) = configured(ISTIO_OUTBOUND_OWNER_GROUPS="java").owner_groups.include
    assert (owner.low, owner.spelled) == (UNKNOWN_ID, "java")
    here = FewSurroundings()
    complaint = refusal(here=here, ISTIO_OUTBOUND_OWNER_GROUPS="java")
    assert complaint.startswith("ISTIO_OUTBOUND_OWNER_GROUPS: 'java' is no group here")


def test_at_most_64_groups() -> None:
    many = ",".join(str(number) for number in range(65))
    assert refusal(ISTIO_OUTBOUND_OWNER_GROUPS=many).endswith("has more than 64 groups")
    assert len(configured(ISTIO_OUTBOUND_OWNER_GROUPS_EXCLUDE=many).owner_groups.exclude) == 65


def test_an_empty_list_of_groups_captures_nothing_unless_that_is_fixed() -> None:
    assert not configured(ISTIO_OUTBOUND_OWNER_GROUPS="").owner_groups.wildcard
    assert configured("--fix", "N8", ISTIO_OUTBOUND_OWNER_GROUPS="").owner_groups.wildcard
    assert "nothing outbound is captured" in said(ISTIO_OUTBOUND_OWNER_GROUPS="")[0]


def test_unknown_groups_are_left_out_where_that_is_fixed_and_others_remain() -> None:
    here = FewSurroundings()
    groups = configured("--fix", "n9", here=here, ISTIO_OUTBOUND_OWNER_GROUPS="java,202").owner_groups
    assert [group.low for group in groups.include] == [202]
    assert "'java' is no group here" in refusal("--fix", "N9", here=here, ISTIO_OUTBOUND_OWNER_GROUPS="java")


@pytest.mark.parametrize(
    ("addresses", "dual", "ipv6"),
    [
        (("127.0.0.1", "::1", "10.0.0.1"), False, False),
        (("127.0.0.1", "::1", "10.0.0.1", "fd00::1"), False, False),
        (("127.0.0.1", "::1", "fd00::1", "10.0.0.1"), False, True),
        (("127.0.0.1", "10.0.0.1", "fd00::1"), True, True),
        (("127.0.0.1", "10.0.0.1", "fe80::1"), True, False),
        (("127.0.0.1", "::6", "10.0.0.1"), True, False),
        (("127.0.0.1",), True, False),
    ],
)
def test_the_addresses_decide_about_ipv6(addresses: tuple[str, ...], dual: bool, ipv6: bool) -> None:
    assert configured(f"--dual-stack={dual}", here=FewSurroundings(addresses)).ipv6 is ipv6


def test_ip_family_beats_the_addresses_and_a_dry_run_asks_for_none() -> None:
    here = FewSurroundings(("fd00::1",))
    assert not configured("--ip-family", "ipv4", here=here).ipv6
    assert configured("--ip-family", "dual", here=FewSurroundings(("10.0.0.1",))).ipv6
    assert not configured().ipv6
    assert configured("--dual-stack").ipv6


def test_resolvers_come_from_the_machine_unless_they_are_given() -> None:
    here = FewSurroundings((), ("10.96.0.10", "nonsense", "FD00::10"))
    assert [server.spelled for server in configured("--redirect-dns", here=here).dns.servers] == [
        "10.96.0.10/32",
        "fd00::10/128",
    ]
    given = configured("--redirect-dns", "--dns-servers", "1.1.1.1", here=here).dns
    assert [server.spelled for server in given.servers] == ["1.1.1.1/32"]
    assert not configured("--redirect-dns", "--dns-servers", "none", here=here).dns.enabled
    assert not configured("--redirect-dns", here=FewSurroundings()).dns.enabled


def test_a_dry_run_says_what_it_lacks_for_dns() -> None:
    assert refusal("--redirect-dns") == (
        "--redirect-dns: a dry run does not read /etc/resolv.conf; "
        "expected --dns-servers with addresses or 'none', or --capture-all-dns"
    )
    assert configured("--redirect-dns", "--capture-all-dns").dns.enabled


def test_fixes_are_named_one_by_one_or_all() -> None:
    assert configured("--fix", "N1,n12").fixes == {"N1", "N12"}
    assert configured("--fix", "all").fixes == FIXES.keys()


def test_options_without_effect_are_said() -> None:
    assert said("-b", "80", "-d", "81") == ["-d: ports are excluded only from -b '*'; '81' has no effect"]
    assert said("--capture-all-dns") == ["--capture-all-dns: has no effect without --redirect-dns"]
    groups = said(ISTIO_OUTBOUND_OWNER_GROUPS="1", ISTIO_OUTBOUND_OWNER_GROUPS_EXCLUDE="2")
    assert groups == [
        "ISTIO_OUTBOUND_OWNER_GROUPS_EXCLUDE: counts only where all groups are captured; '2' has no effect"
    ]
    assert said("--redirect-dns", "--dns-servers", "none") == [
        "--redirect-dns: no resolver is known, so DNS is not captured"
    ]
    assert said("-m", "TPROXY", "-b", "*", "-t", "1338") == ["-t: 1338 also marks calls of the Pod to itself"]
    assert said("-b", "*", "-d", "22", "--redirect-dns", "--capture-all-dns") == []


def test_short_options_may_hang_on_their_value_with_or_without_an_equals_sign() -> None:
    assert configured("-p=1").proxy_port == configured("-p1").proxy_port == configured("-p", "1").proxy_port
