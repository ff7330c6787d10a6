"""Make the lab's certificates with the openssl command: one root, one certificate per site, the clients'."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterable, Mapping
from pathlib import Path

_CONFIG = "[req]\ndistinguished_name = name\nprompt = no\n[name]\nCN = unnamed\n"
_DAYS = "30"


def make_pki(folder: Path, names: Iterable[str], files: Mapping[str, str]) -> None:
    """Fill `folder`: root.pem, sites.key, sites/NAME.pem, and files/PATH for each path policies may name."""
    (folder / "sites").mkdir(parents=True)
    (folder / "openssl.cnf").write_text(_CONFIG)
    for root in ("root", "other"):
        _key(folder / f"{root}.key")
        _certificate(folder, f"{root}.pem", f"{root}.key", f"egress lab {root}", issuer=None)
    _key(folder / "sites.key")
    for name in names:
        _certificate(folder, f"sites/{name}.pem", "sites.key", name, issuer="root", san=name)
    _make_files(folder, files)


def _make_files(folder: Path, files: Mapping[str, str]) -> None:
    """The objects a world file describes as 'lab root', 'client certificate, CN x, signed by ...', 'its key'."""
    key = "sites.key"
    for number, (path, description) in enumerate(files.items()):
        target = folder / "files" / path.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        if description.startswith("its key"):
            target.write_bytes((folder / key).read_bytes())
        elif "certificate" in description:
            key = f"client{number}.key"
            _key(folder / key)
            named = re.search(r"CN ([^\s,]+)", description)
            issuer = "root" if "lab root" in description else "other"
            _certificate(folder, f"client{number}.pem", key, named[1] if named else "rogue", issuer=issuer)
            target.write_bytes((folder / f"client{number}.pem").read_bytes())
        else:
            root = "root" if description.startswith("lab root") else "other"
            target.write_bytes((folder / f"{root}.pem").read_bytes())
        target.chmod(0o644)  # the proxy runs as another user


def _key(path: Path) -> None:
    _openssl("ecparam", "-genkey", "-name", "prime256v1", "-noout", "-out", str(path))


def _certificate(
    folder: Path, out: str, key: str, common_name: str, *, issuer: str | None, san: str | None = None
) -> None:
    words = ["req", "-x509", "-new", "-config", str(folder / "openssl.cnf"), "-days", _DAYS, "-utf8"]
    words += ["-key", str(folder / key), "-subj", f"/CN={common_name}", "-out", str(folder / out)]
    if issuer:
        words += ["-CA", str(folder / f"{issuer}.pem"), "-CAkey", str(folder / f"{issuer}.key")]
    words += ["-addext", f"basicConstraints=critical,CA:{'FALSE' if issuer else 'TRUE'}"]
    if san:
        words += ["-addext", f"subjectAltName=DNS:{san}"]
    _openssl(*words)


def _openssl(*words: str) -> None:
    result = subprocess.run(["openssl", *words], capture_output=True, text=True, timeout=30, check=False)
    if result.returncode:
        raise RuntimeError(f"openssl {words[0]}: {result.stderr.strip()}")
