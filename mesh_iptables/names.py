"""Ask this machine for its services, users, groups, hosts and routing tables."""

from __future__ import annotations

import _socket

RT_TABLES = ("/etc/iproute2/rt_tables", "/usr/share/iproute2/rt_tables")


class SystemNames:
    """The look-ups that iptables and iproute2 make for a name in their arguments."""

    def service(self, name: str) -> int | None:
        try:
            return _socket.getservbyname(name, "tcp")
        except OSError:
            return None

    def user(self, name: str) -> int | None:
        import pwd

        try:
            return pwd.getpwnam(name).pw_uid
        except KeyError:
            return None

    def has_uid(self, uid: int) -> bool:
        """Whether somebody has this uid."""
        import pwd

        try:
            return pwd.getpwuid(uid).pw_uid == uid
        except (KeyError, OverflowError):
            return False

    def group(self, name: str) -> int | None:
        import grp

        try:
            return grp.getgrnam(name).gr_gid
        except KeyError:
            return None

    def network(self, name: str) -> int | None:
        """An entry of /etc/networks, which iptables asks before the resolver."""
        for words in _table("/etc/networks"):
            if len(words) > 1 and name in (words[0], *words[2:]):
                return int.from_bytes(_socket.inet_aton(words[1]))
        return None

    def hosts(self, name: str) -> tuple[int, ...]:
        """All IPv4 addresses of a host, in the resolver's order, doubles included: iptables makes a rule of each."""
        try:
            found = _socket.getaddrinfo(name, None, _socket.AF_INET, _socket.SOCK_RAW)
        except (OSError, UnicodeError):
            return ()
        return tuple(int.from_bytes(_socket.inet_aton(str(entry[4][0]))) for entry in found)

    def routing_table(self, name: str) -> int | None:
        for path in RT_TABLES:
            for words in _table(path):
                if words[1:2] == [name]:
                    return int(words[0], 0)
        return None


def _table(path: str) -> list[list[str]]:
    """The words of each line of a table in /etc, without comments; empty where there is no such file."""
    try:
        with open(path, encoding="utf-8", errors="replace") as lines:
            return [words for line in lines if (words := line.partition("#")[0].split())]
    except OSError:
        return []
