"""Command lines that must be refused: what each is about, the words, the environment, and how the complaint begins."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple


class Bad(NamedTuple):
    """One wrong request; `begins` is the start of its one line."""

    words: list[str]
    begins: str
    environment: Mapping[str, str] = {}


def _values(option: str, values: dict[str, str]) -> dict[str, Bad]:
    return {f"{option} {about}": Bad([option, value], f"{option}") for about, value in values.items()}


HOSTILE = {
    "newline": "80\n-A OUTPUT -j DROP",
    "carriage return": "80\r",
    "semicolon": "80;id",
    "command substitution": "$(id)",
    "backquotes": "`id`",
    "pipe": "80|id",
    "quote": "80'",
    "option of iptables": "80 -j DROP",
    "non-UTF-8": "80\udcff",
    "no-break space": "\u00a080",
    "other digits": "\u0661\u0662",
    "endless": "9" * 100_000,
}

BAD: dict[str, Bad] = {
    **_values("-p", {"empty": "", "name": "nosuchservice", "too big": "70000", "negative": "-1", "list": "80,81"}),
    **_values("-p", {"open range": "15001-", "backward range": "2-1", "colon range": "15001:15002", "octal 8": "080"}),
    **_values("-b", {"name": "abc", "good then bad": "80,abc,443", "too big": "65536", "negative": "-80"}),
    **_values("-b", {"backward range": "443:80", "dash range": "80-90", "blank behind": "80 ,443", "three": "1:2:3"}),
    **_values("-b", {"empty entry": "80,,443", "comma first": ",80", "only commas": ",,", "star in list": "80,*"}),
    **_values("-b", {"blank entry": "80, ,443", "float": "80.5", "exponent": "1e3", "missing file": "@/no/such/file"}),
    **_values("-d", {"name": "abc", "star": "*", "empty entry": "80,,443"}),
    **_values(
        "-i", {"IPv6": "fd00::/8", "prefix": "10.0.0.0/33", "negative prefix": "10.0.0.0/-1", "octet": "10.0.0.256"}
    ),
    **_values(
        "-i", {"five octets": "1.2.3.4.5", "empty mask": "10.0.0.0/", "two masks": "10.0.0.0/8/8", "option": "-b"}
    ),
    **_values("-i", {"range": "10.0.0.1-10.0.0.9", "short mask": "10.0.0.0/255.255", "star in list": "*,10.0.0.0/8"}),
    **_values(
        "-x", {"star": "*", "empty entry": "10.0.0.0/8,,11.0.0.0/8", "only mask": "/8", "negation": "!10.0.0.0/8"}
    ),
    **_values("-u", {"ghost": "no-such-user-xyz", "too big": "4294967295", "negative": "-1", "backward": "2000-1000"}),
    **_values(
        "-u", {"empty entry": "1337,,0", "names as range": "root-daemon", "no group of that name": "no-such-user"}
    ),
    **_values("-g", {"ghost": "no-such-group-xyz", "blank behind": "1337 "}),
    **_values("-m", {"lower case": "tproxy", "unknown": "NONE", "blank": " TPROXY"}),
    **{
        f"{option} {about}": Bad([option, value], option)
        for option in ("-p", "-u", "-g", "-m", "-b", "-d", "-i", "-x")
        for about, value in HOSTILE.items()
    },
    "TPROXY and a range of ports": Bad(["-m", "TPROXY", "-b", "80", "-p", "1-2"], "-p: '1-2' is a range"),
    "TPROXY and an octal port": Bad(["-m", "TPROXY", "-b", "80", "-p", "0120"], "-p: '0120' is not a decimal"),
    "no such option": Bad(["-y"], "'-y': there is no such option"),
    "an option of the other dialect": Bad(["-q", "80"], "-q: only dialect istio-1.2x has this option"),
    "no such long option": Bad(["--nonsense"], "'--nonsense': there is no such option"),
    "no value": Bad(["-u", "1337", "-b"], "-b: has no value"),
    "a word behind": Bad(["-u", "1337", "word", "-i", "*"], "'word': stands behind"),
    "clean behind": Bad(["-u", "1337", "clean"], "'clean': stands behind"),
    "value for a flag": Bad(["--host=1"], "--host: takes no value"),
    "unknown dialect": Bad(["--dialect", "istio-9"], "--dialect: 'istio-9'"),
    "unknown backend": Bad(["--backend", "ebpf"], "--backend: 'ebpf'"),
    "unknown flavour": Bad(["--iptables", "new"], "--iptables: 'new'"),
    "flavour of another backend": Bad(["--backend", "nft", "--iptables", "legacy"], "--iptables: "),
    "wait that is no number": Bad(["--wait", "soon"], "--wait: 'soon'"),
    "no such namespace": Bad(["--netns", "no-such-namespace"], "--netns: "),
    **{
        f"{variable} {value!r}": Bad(["-m", "TPROXY", "-b", "80"], f"{variable}: ", {variable: value})
        for variable, values in {
            "ISTIO_INBOUND_TPROXY_MARK": ("0", "0x0", "abc", "-1", "4294967296", "7/1", "7 "),
            "ISTIO_INBOUND_TPROXY_ROUTE_TABLE": (
                "0",
                "253",
                "254",
                "255",
                "main",
                "local",
                "default",
                "nosuchtable",
                "-1",
            ),
            "INBOUND_CAPTURE_PORT": ("abc", "70000", "1-"),
            "ENVOY_PORT": ("abc", "80 "),
        }.items()
        for value in values
    },
    "mode by variable": Bad([], "ISTIO_INBOUND_INTERCEPTION_MODE: ", {"ISTIO_INBOUND_INTERCEPTION_MODE": "tproxy"}),
}
