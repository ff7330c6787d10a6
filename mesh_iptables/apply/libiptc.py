"""The legacy tables in this process: libiptc and the extensions of iptables, by way of python-iptables.

Of python-iptables only what lies lowest is used: its bindings of libiptc, and its Match and Target, which let an
extension read its own options. Its Table commits whenever it likes, and its Rule reads back what it wrote through a
pipe, so that a thousand rules take seconds; neither is touched here.
"""

from __future__ import annotations

import ctypes
import os
import struct
import sys
from contextlib import contextmanager
from itertools import pairwise

from mesh_iptables.apply.rights import right_remedy
from mesh_iptables.errors import ApplyError, MachineError
from mesh_iptables.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from types import ModuleType
    from typing import Any

    from mesh_iptables.model import Family

# What these are called on the usual machine: ctypes starts ldconfig, gcc and ld to find that out.
LIBRARIES = {
    "c": "libc.so.6",
    "xtables": "libxtables.so.12",
    "ip4tc": "libip4tc.so.2",
    "ip6tc": "libip6tc.so.2",
}
MODULES = ("xtables", "ip4tc", "ip6tc")
KERNEL_MODULE: dict[Family, str] = {"ipv4": "ip_tables", "ipv6": "ip6_tables"}
EPERM, ENOENT, EACCES, ENOPROTOOPT, EPROTONOSUPPORT, EAFNOSUPPORT = 1, 2, 13, 92, 93, 97
NO_RIGHT = frozenset({EPERM, EACCES})
NO_FEATURE = frozenset({ENOENT, ENOPROTOOPT, EPROTONOSUPPORT, EAFNOSUPPORT})

# Extensions that were looked for, and their files. It is libxtables that keeps them as long as the process lives.
_looked_for: set[tuple[Family, str, str]] = set()
_loaded: set[str] = set()

HEAD = struct.Struct("=H29sB")  # of a match or target: its size with this head, name, revision
STANDARD_SIZE = 40
OFFSETS = struct.Struct("=HH")  # from the start of an entry to its target, and to its end


class Layout(Value):
    """Where an entry keeps its fields: <linux/netfilter_ipv4/ip_tables.h> and its IPv6 sister.

    Both begin with two addresses and their two masks, in and out interface and their two masks.
    """

    address: int  # bytes of one address
    protocol: int
    flags: int
    inverse: int
    offsets: int
    size: int


LAYOUTS: dict[Family, Layout] = {
    "ipv4": Layout(4, 80, 82, 83, 88, 112),
    "ipv6": Layout(16, 128, 131, 132, 140, 168),
}


class Entry(Value):
    """One rule as libiptc has it, and the name of its target: a chain, a verdict, an extension, "" for none."""

    raw: bytes
    target: str

    def to_append(self, layout: Layout) -> bytes:
        """The rule as libiptc takes it: instead of a place in the table it names the chain to go to."""
        place = OFFSETS.unpack_from(self.raw, layout.offsets)[0]
        size, name, revision = HEAD.unpack_from(self.raw, place)
        if name[0]:  # an extension; behind the end of an empty name stands anything
            return self.raw
        head = HEAD.pack(size, self.target.encode(), revision)
        return self.raw[:place] + head + self.raw[place + HEAD.size :]


class Library:
    """python-iptables, imported without the programs that its import starts. MachineError where that cannot be."""

    def __init__(self) -> None:
        xtables, ip4tc, ip6tc = import_python_iptables()
        self._bindings: dict[Family, Any] = {"ipv4": ip4tc.iptc, "ipv6": ip6tc.ip6tc}
        # An entry to build extensions for; with tables to look for chains in, python-iptables would open them all.
        self._rules: dict[Family, Any] = {
            "ipv4": type("Rule", (ip4tc.Rule,), {"tables": ()}),
            "ipv6": type("Rule6", (ip6tc.Rule6,), {"tables": ()}),
        }
        self._entries: dict[Family, Any] = {"ipv4": ip4tc.ipt_ip, "ipv6": ip6tc.ip6t_ip6}
        self._match, self._target = ip4tc.Match, ip4tc.Target
        self._heads: dict[str, Any] = {"match": xtables.xt_entry_match, "target": xtables.xt_entry_target}
        self._xtables = {"ipv4": xtables.xtables(xtables.NFPROTO_IPV4), "ipv6": xtables.xtables(xtables.NFPROTO_IPV6)}
        for each in self._xtables.values():
            # Where libxtables finds no extension, python-iptables would run the initialisers of its file a second
            # time, and libxtables then ends the process.
            each._try_register = lambda _name: None
        self._folder = xtables._xtables_libdir
        self._libxtables = xtables._lib_xtables
        self._errno = ip4tc._get_errno_loc
        self._libc = ip4tc._libc
        self._load_kernel = sys.modules["iptc.util"].load_kernel
        self._built: dict[tuple[Family, int, tuple[str, ...]], bytes] = {}
        self._printed: dict[tuple[Family, str, bytes], str] = {}

    def _make_known(self, family: Family, option: str, name: str) -> None:
        """Have libxtables know an extension, such as REDIRECT, for the second family too.

        A file of extensions registers those of the family at hand when it is loaded, and is loaded once; for the other
        family it is loaded again, as another file.
        """
        path = os.path.realpath(f"{self._folder}/libxt_{name}.so")
        if (family, option, name) in _looked_for or not os.path.exists(path):
            return
        _looked_for.add((family, option, name))
        if path in _loaded and not self._is_registered(family, option, name):
            self._xtables[family].find_target("standard")  # makes this the family at hand
            with open(path, "rb") as file:
                copy = os.memfd_create(name)  # stays open: a second one of the same number would pass for the first
                os.write(copy, file.read())
                ctypes.CDLL(f"/proc/self/fd/{copy}")
        _loaded.add(path)

    def _is_registered(self, family: Family, option: str, name: str) -> bool:
        kind = "matches" if option == "-m" else "targets"
        xtables = self._xtables[family]
        structure = xtables._match_struct if option == "-m" else xtables._target_struct
        for start in (f"xtables_pending_{kind}", f"xtables_{kind}"):
            place = ctypes.c_void_p.in_dll(self._libxtables, start).value
            while place:
                found = structure.from_address(place)
                if found.name == name.encode() and found.family in (0, xtables.proto):
                    return True
                place = found.next
        return False

    def table(self, family: Family, name: str) -> Table:
        """Open a table as it is now; MachineError where rights or the kernel lack."""
        bindings = self._bindings[family]
        handle = bindings.iptc_init(name.encode())
        if not handle and self._errno()[0] == ENOPROTOOPT:
            self._load_kernel(KERNEL_MODULE[family])
            handle = bindings.iptc_init(name.encode())
        if not handle:
            raise self.refusal(family, f"table {name}")
        return Table(self, family, name, bindings, handle)

    def refusal(self, family: Family, what: str) -> ApplyError | MachineError:
        """What the last failure of libiptc means."""
        number = self._errno()[0]
        text = self._bindings[family].iptc_strerror(number).decode(errors="replace")
        text = f"{'iptables' if family == 'ipv4' else 'ip6tables'} {what}: {text}"
        if number in NO_RIGHT:
            return MachineError(f"{text}; {right_remedy('NET_ADMIN', 'NET_RAW')}")
        if number in NO_FEATURE and what.startswith("table"):
            return MachineError(f"{text}; this kernel has no such legacy table: --backend nft, or load its module")
        return ApplyError(text, 4)

    def extension(self, family: Family, protocol: int, words: Sequence[str]) -> bytes:
        """A match (`-m owner --uid-owner 0`) or target (`-j REDIRECT …`) in the kernel's form.

        Raises ApplyError where there is no such extension or it does not take the words.
        """
        key = (family, protocol, tuple(words))
        if key not in self._built:
            self._built[key] = self._build(family, protocol, words)
        return self._built[key]

    def _build(self, family: Family, protocol: int, words: Sequence[str]) -> bytes:
        rule = self._rules[family]()
        rule.get_ip().proto = protocol
        kind = self._match if words[0] == "-m" else self._target
        self._make_known(family, words[0], words[1])
        given = [(option, f"{'!' if negated else ''}{' '.join(values)}") for negated, option, values in options(words)]
        try:
            with captured(2):  # warnings about older revisions of an extension
                extension = kind(rule, name=words[1])
                for option, value in given:
                    extension.parse(option, value)
                # Not final_check, which reads the options back and sets them again, ranges and negations garbled.
                extension._final_check()
        except Exception as error:
            raise ApplyError(f"{' '.join(words)}: {_first_line(error)}", 2) from error
        buffer = extension.match_buf if words[0] == "-m" else extension._target_buf
        return ctypes.string_at(buffer, extension.size)

    def print_extension(self, family: Family, option: str, head: bytes, extension: bytes) -> str:
        """`-m NAME …` or `-j NAME …` as iptables-save prints it; `head` is the entry it belongs to."""
        key = (family, option, head[LAYOUTS[family].protocol : LAYOUTS[family].offsets] + extension)
        if key not in self._printed:
            self._printed[key] = self._print(family, option, head, extension)
        return self._printed[key]

    def _print(self, family: Family, option: str, head: bytes, extension: bytes) -> str:
        _, name, revision = HEAD.unpack_from(extension)
        name = name.partition(b"\0")[0]
        xtables = self._xtables[family]
        self._make_known(family, option, name.decode())
        with captured(2):
            found = xtables.find_match(name) if option == "-m" else xtables.find_target(name)
        if not found:
            return f"{option} {name.decode()}"
        module = found[0]
        buffer = ctypes.create_string_buffer(extension, len(extension))
        kind = self._heads["match" if option == "-m" else "target"]
        pointer = ctypes.cast(buffer, ctypes.POINTER(kind))
        shown = module.alias(pointer) if module.alias else name
        options_text = ""
        if module.save and module.revision == revision:
            address = self._entries[family].from_buffer_copy(head)
            with captured(1) as text:
                xtables.save(module, address, pointer)
                self._libc.fflush(None)
            options_text = text[0].removesuffix("\n")  # python-iptables ends what it prints
        return f"{option} {shown.decode()}{options_text}"


class Table:
    """A table as it was when it was opened, and what is to become of it; the kernel learns of it by `commit`."""

    def __init__(self, library: Library, family: Family, name: str, bindings: Any, handle: Any) -> None:
        self.family = family
        self.name = name
        self._library = library
        self._bindings = bindings
        self._handle = handle

    def close(self) -> None:
        """Forget all that was not committed."""
        self._bindings.iptc_free(self._handle)

    def chains(self) -> list[str]:
        """The names of all chains, as iptables-save orders them."""
        found = []
        chain = self._bindings.iptc_first_chain(self._handle)
        while chain:
            found.append(chain.decode())
            chain = self._bindings.iptc_next_chain(self._handle)
        return found

    def policy(self, chain: str) -> str:
        """`ACCEPT [12:345]`, as iptables-save prints it; `- [0:0]` for a chain of one's own."""
        counters = (ctypes.c_uint64 * 2)()
        policy = b""
        if self._bindings.iptc_builtin(chain.encode(), self._handle):
            policy = self._bindings.iptc_get_policy(chain.encode(), counters, self._handle)
        return f"{policy.decode() or '-'} [{counters[0]}:{counters[1]}]"

    def entries(self, chain: str) -> list[Entry]:
        """The rules of a chain."""
        place = LAYOUTS[self.family].offsets
        found = []
        entry = self._bindings.iptc_first_rule(chain.encode(), self._handle)
        while entry:
            length = OFFSETS.unpack(ctypes.string_at(ctypes.addressof(entry.contents) + place, OFFSETS.size))[1]
            target = self._bindings.iptc_get_target(entry, self._handle)
            found.append(Entry(ctypes.string_at(entry, length), target.decode() if target else ""))
            entry = self._bindings.iptc_next_rule(entry, self._handle)
        return found

    def empty(self, chain: str) -> None:
        """Remove all rules of a chain; make it where it is not there."""
        name = chain.encode()
        if self._bindings.iptc_is_chain(name, self._handle):
            self._check(self._bindings.iptc_flush_entries(name, self._handle), f"-F {chain}")
        else:
            self._check(self._bindings.iptc_create_chain(name, self._handle), f"-N {chain}")

    def append(self, chain: str, raw: bytes) -> None:
        """Put a rule behind the others of a chain."""
        self._check(self._bindings.iptc_append_entry(chain.encode(), raw, self._handle), f"-A {chain}")

    def insert(self, chain: str, raw: bytes) -> None:
        """Add a rule in front of all others of a chain."""
        self._check(self._bindings.iptc_insert_entry(chain.encode(), raw, 0, self._handle), f"-I {chain}")

    def delete(self, chain: str, number: int) -> None:
        """Remove one rule of a chain, by its number from 0."""
        self._check(
            self._bindings.iptc_delete_num_entry(chain.encode(), number, self._handle), f"-D {chain} {number + 1}"
        )

    def remove(self, chain: str) -> None:
        """Remove an empty chain that nothing jumps to."""
        self._check(self._bindings.iptc_delete_chain(chain.encode(), self._handle), f"-X {chain}")

    def commit(self) -> None:
        """Make the kernel's table this one, at once and whole; ApplyError or MachineError where it refuses."""
        self._check(self._bindings.iptc_commit(self._handle), "COMMIT")

    def _check(self, done: int, what: str) -> None:
        if not done:
            raise self._library.refusal(self.family, f"-t {self.name} {what}")


def options(words: Sequence[str]) -> Iterator[tuple[bool, str, Sequence[str]]]:
    """Each `[!] --option value…` of an extension: negated, the option without its dashes, its values."""
    starts = [place for place, word in enumerate(words) if word.startswith("--")]
    for start, following in pairwise([*starts, len(words)]):
        values = words[start + 1 : following]
        if values and values[-1] == "!":
            values = values[:-1]
        yield start > 0 and words[start - 1] == "!", words[start][2:], values


@contextmanager
def captured(descriptor: int) -> Iterator[list[str]]:
    """A list that holds, after the block, what C wrote there meanwhile."""
    (sys.stdout if descriptor == 1 else sys.stderr).flush()
    file = os.memfd_create("captured")
    try:
        before = os.dup(descriptor)
    except OSError:  # there is no such output
        before = -1
    os.dup2(file, descriptor)
    text: list[str] = []
    try:
        yield text
    finally:
        if before >= 0:
            os.dup2(before, descriptor)
            os.close(before)
        else:
            os.close(descriptor)
        os.lseek(file, 0, os.SEEK_SET)
        text.append(os.read(file, 1 << 20).decode(errors="surrogateescape"))
        os.close(file)


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)


def import_python_iptables() -> tuple[ModuleType, ModuleType, ModuleType]:
    """The modules `xtables`, `ip4tc` and `ip6tc` of python-iptables; MachineError where it is missing or unfit."""
    from importlib.util import find_spec

    spec = find_spec("iptc")
    if spec is None or not spec.submodule_search_locations:
        raise MachineError("python-iptables is not installed here: pip install 'mesh-iptables[iptc]'")
    try:
        return _import_quietly(spec.submodule_search_locations[0])
    except Exception as error:
        raise MachineError(
            f"python-iptables does not start: {_first_line(error)}; "
            "it needs libxtables, libip4tc and libip6tc, which come with iptables"
        ) from error


def _import_quietly(folder: str) -> tuple[ModuleType, ModuleType, ModuleType]:
    """Import the three without a program being started; everything changed for that is put back.

    Unhindered the import runs ldconfig, gcc, objdump and ld for each library it looks for, ldconfig once more for the
    folder of extensions, modprobe twice, and imports setuptools instead of distutils. Kernel modules are loaded when a
    table turns out to lack one.
    """
    import ctypes.util
    import warnings
    from importlib import import_module
    from types import ModuleType

    if "iptc" in sys.modules:
        xtables, ip4tc, ip6tc = (import_module(f"iptc.{name}") for name in MODULES)
        return xtables, ip4tc, ip6tc
    package = ModuleType("iptc")  # its own __init__ imports more than these
    package.__path__ = [folder]
    find_library, distutils = ctypes.util.find_library, sys.modules.get("distutils")
    environment = dict(os.environ)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of Python about its regular expressions
            sys.modules["iptc"] = package
            sys.modules["distutils"] = None  # type: ignore[assignment]  # says: there is none, sysconfig will do
            setattr(ctypes.util, "find_library", _finder(folder, find_library))  # noqa: B010  (typed by platform)
            if "XTABLES_LIBDIR" not in environment and (extensions := _extension_folder()):
                os.environ["XTABLES_LIBDIR"] = extensions
            util = import_module("iptc.util")
            load_kernel: object = vars(util)["load_kernel"]
            vars(util)["load_kernel"] = lambda *_: None
            xtables, ip4tc, ip6tc = (import_module(f"iptc.{name}") for name in MODULES)
            vars(util)["load_kernel"] = load_kernel
            return xtables, ip4tc, ip6tc
    finally:
        ctypes.util.find_library = find_library
        del sys.modules["iptc"]
        del sys.modules["distutils"]
        if distutils is not None:
            sys.modules["distutils"] = distutils
        if "XTABLES_LIBDIR" not in environment:
            os.environ.pop("XTABLES_LIBDIR", None)


def _finder(folder: str, find_library: Callable[[str], str | None]) -> Callable[[str], str | None]:
    """A `find_library` that knows the few libraries asked for, and leaves the rest to the real one."""
    beside = os.path.dirname(folder)
    wrappers = [name for name in os.listdir(beside) if name.startswith("libxtwrapper")]
    known = LIBRARIES | {"xtwrapper": os.path.join(beside, wrappers[0]) if wrappers else ""}

    def find(name: str) -> str | None:
        try:
            ctypes.CDLL(known[name])
        except (KeyError, OSError):
            return find_library(name)
        return known[name]

    return find


def _extension_folder() -> str:
    """The folder `xtables` beside libxtables; "" where it is not there."""
    ctypes.CDLL(LIBRARIES["xtables"])
    with open("/proc/self/maps", encoding="utf-8", errors="replace") as maps:
        paths = {line.split(maxsplit=5)[5].strip() for line in maps if LIBRARIES["xtables"] in line}
    folders = [os.path.join(os.path.dirname(path), "xtables") for path in paths]
    return next((folder for folder in folders if os.path.isdir(folder)), "")
