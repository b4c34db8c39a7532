"""What a measurement was made with: the kind of machine, versions and the state of the source. No names of hosts."""

import os
import platform
import re
import subprocess
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path


def cpu() -> str:
    """The processor's name."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.processor()
    found = re.search(r"model name\s*:\s*(.+)", text)
    return found.group(1).strip() if found else platform.processor()


def machine_kind() -> str:
    """Architecture, cores and processor: "x86_64, 2 cores, AMD EPYC"."""
    cores = os.cpu_count() or 1
    return ", ".join(part for part in (platform.machine(), f"{cores} core{'s' * (cores > 1)}", cpu()) if part)


def versions(packages: Iterable[str]) -> dict[str, str]:
    """The versions of those packages that are installed."""
    out = {}
    for name in packages:
        try:
            out[name] = version(name)
        except PackageNotFoundError:
            continue
    return out


def commit(root: Path, *paths: str) -> str:
    """The commit of a checkout, with + when something under `paths` differs from it; empty where there is none."""

    def git(*arguments: str) -> str:
        done = subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    try:
        return git("rev-parse", "--short", "HEAD") + ("+" if git("status", "--porcelain", "--", *paths) else "")
    except (OSError, subprocess.CalledProcessError):
        return ""
