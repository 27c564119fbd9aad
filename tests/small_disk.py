"""A real small file system for tests: full, read-only, and well again."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest


class SmallDisk:
    """A mounted tmpfs."""

    def __init__(self, folder: Path) -> None:
        self.folder, self._ballast = folder, folder / "ballast"

    def fill(self, leave: int = 0) -> None:
        """Write until the disk is full, then leave so many bytes, a multiple of 4 KiB."""
        with self._ballast.open("ab", buffering=0) as stream, suppress(OSError):
            while True:
                stream.write(bytes(4096))
        self.make_room(pages=leave // 4096)

    def make_room(self, pages: int | None = None) -> None:
        """Of some pages of 4 KiB; None = of all that `fill` took."""
        os.truncate(self._ballast, 0 if pages is None else self._ballast.stat().st_size - 4096 * pages)

    def free(self) -> int:
        found = os.statvfs(self.folder)
        return found.f_bavail * found.f_frsize

    def remount(self, option: str) -> None:
        """`ro` or `rw`."""
        subprocess.run(["mount", "-o", f"remount,{option}", str(self.folder)], check=True)


@contextmanager
def small_disk(folder: Path, *, kib: int = 64) -> Iterator[SmallDisk]:
    """Mounted on `folder`; skips where that is not permitted."""
    folder.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={kib}k", "tmpfs", str(folder)], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"mounting a small file system needs root: {done.stderr.strip()}")
    try:
        yield SmallDisk(folder)
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)
