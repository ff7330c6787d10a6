"""A spread of settings for tests that must hold for every one of them."""

from __future__ import annotations

from mesh_iptables.model import Plan
from mesh_iptables.options import configure, gather, split_words
from mesh_iptables.plan import istio_1_0

from .names import FewNames

ARGUMENT_SETS: dict[str, list[str]] = {
    "nothing": [],
    "worked example": ["-p", "15001", "-u", "1337", "-m", "REDIRECT", "-i", "*", "-x", "", "-b", "9080,", "-d", ""],
    "all in, all out": ["-u", "1337", "-b", "*", "-d", "15020,15090", "-i", "*", "-x", "169.254.169.254/32"],
    "listed ports and ranges": ["-u", "1337", "-b", "80,8000:8010,http,:", "-i", "10/8,0/0,10.1.2.3/255.0.255.0"],
    "tproxy all": ["-u", "1337", "-m", "TPROXY", "-b", "*", "-d", "22,22", "-i", "*"],
    "tproxy listed": ["-u", "1337", "-m", "TPROXY", "-b", "80, 443", "-i", "two.test,one.test/24"],
    "tproxy without inbound": ["-u", "1337", "-m", "TPROXY", "-i", "*"],
    "owners": ["-u", "root,1000-2000", "-g", "root,5:7", "-x", "10.0.0.0/8"],
    "range of proxy ports": ["-p", "15001-15003", "-b", "80,80,80", "-u", "5"],
}


def plan_for(words: list[str], **environment: str) -> Plan:
    """The plan of a command line, without this machine."""
    settings = gather(split_words(words).rules, environment, lambda _: None, dry_run=True)
    return istio_1_0.plan(configure(settings, FewNames(), dry_run=True))
