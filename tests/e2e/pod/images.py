"""The images that the tests use: a base made on the spot, and ours upon it, built without an index."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from tests.netns.namespace import ROOT

from .engine import Engine

BASE, INIT, PROXY = "localhost/e2e-base", "localhost/mesh-iptables-init", "localhost/mesh-iptables-proxy"
# What Dockerfile.init copies: .dockerignore names the same.
SOURCES = ("LICENSE", "README.md", "bin", "mesh_iptables", "pyproject.toml", "Dockerfile.init")
UNNEEDED = ("man", "locale", "doc", "info")  # below /usr/share: not in debian:*-slim either
CACHE = "MESH_IPTABLES_TEST_CACHE"


def make_images(engine: Engine) -> None:
    """Build all images into the engine's storage."""
    base = base_archive(engine.folder)
    settings = ["CMD bash", "ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"]
    engine.run("import", *(word for line in settings for word in ("--change", line)), str(base), BASE)
    context = engine.folder / "context"
    _fill(context)
    shared = ("--build-arg", f"BASE={BASE}", "--build-arg", "COMPILER=", "--file", f"{context}/Dockerfile.init")
    engine.build(*shared, "--tag", INIT, str(context))
    engine.build(*shared, "--tag", PROXY, "--target", "proxy", str(context))


def base_archive(folder: Path) -> Path:
    """A Debian as small as debian:*-slim. Kept in the cache folder, where there is one, for the runs to come."""
    suite = debian_suite()
    cache = Path(os.environ.get(CACHE) or Path.home() / ".cache" / "mesh-iptables")
    kept = cache / f"base-{suite}.tar"
    if kept.exists():
        return kept
    made = folder / kept.name
    _debootstrap(suite, made)
    if cache.is_dir():
        half = kept.with_suffix(f".{os.getpid()}")
        shutil.copy(made, half)
        half.replace(kept)  # at once: another run may look for it
    return made


def debian_suite() -> str:
    """This machine's Debian, so that wheels made here fit the Python of the images."""
    lines = Path("/etc/os-release").read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if "=" in line).get("VERSION_CODENAME", "bookworm")


def _debootstrap(suite: str, archive: Path) -> None:
    left_out = [f"--dpkgopt=path-exclude=/usr/share/{name}/*" for name in UNNEEDED]
    caches = [f'--aptopt=Dir::Cache::{name} ""' for name in ("pkgcache", "srcpkgcache")]  # 80 MB a layer
    merged = ["--include=usr-is-merged", "--hook-dir=/usr/share/mmdebstrap/hooks/merged-usr"]  # without: all of perl
    words = ["mmdebstrap", "--variant=minbase", *merged, *left_out, *caches, suite, str(archive)]
    done = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr


def _fill(context: Path) -> None:
    """The sources of this checkout, and wheels of them and of all they need."""
    context.mkdir()
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, context / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, context / name)
    words = ["wheel", "--quiet", "--disable-pip-version-check", "--use-pep517", f"--wheel-dir={context}/wheels"]
    command = [sys.executable, "-m", "pip", *words, f"{context}[iptc,proxy]"]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
