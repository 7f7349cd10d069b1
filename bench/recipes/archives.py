"""Public packages: got by their ordinary clients, told by their sha256, read without unpacking."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import tarfile
import zipfile
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Archive:
    """One package at one version: a Debian package (`apt`) or a Python wheel (`pip`)."""

    client: str
    package: str
    version: str
    sha256: str

    @property
    def pattern(self) -> str:
        """What its file is called, whatever the client makes of the version."""
        return f"{self.package}_*.deb" if self.client == "apt" else f"{self.package.replace('-', '_')}-*.whl"

    def find(self, folder: Path) -> Path | None:
        """Its file in a folder. Ends the process where there are others of the package only."""
        there = sorted(folder.glob(self.pattern))
        for path in there:
            if digest(path) == self.sha256:
                return path
        if there:
            sys.exit(f"{there[0]}: sha256 {digest(there[0])}, wanted {self.sha256} ({self.package} {self.version})")
        return None

    def get(self, folder: Path) -> Path:
        """Its file, downloaded into the folder unless it is there. Ends the process where that fails."""
        if found := self.find(folder):
            return found
        folder.mkdir(parents=True, exist_ok=True)
        print(f"{self.package} {self.version}: downloading", flush=True)
        command = (
            ["apt-get", "download", f"{self.package}={self.version}"]
            if self.client == "apt"
            else [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", ".", f"{self.package}=={self.version}"]
        )
        if not shutil.which(command[0]):
            sys.exit(f"{command[0]} is not here: put {self.package} {self.version} into a folder and name it with --from")
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
        if done.returncode:
            sys.exit(f"{' '.join(command)}: {(done.stderr or done.stdout).strip().splitlines()[-1]}")
        if found := self.find(folder):
            return found
        sys.exit(f"{' '.join(command)}: left no {self.pattern}")


def digest(path: Path) -> str:
    """The sha256 of a file."""
    with path.open("rb") as file:
        summed = hashlib.sha256()
        while block := file.read(1 << 20):
            summed.update(block)
    return summed.hexdigest()


def read(path: Path, members: set[str]) -> dict[str, bytes]:
    """The bytes of these members. Ends the process where one is missing."""
    if path.suffix == ".whl":
        with zipfile.ZipFile(path) as archive:
            found = {name: archive.read(name) for name in archive.namelist() if name in members}
    else:
        found = _read_deb(path, members)
    if missing := members - found.keys():
        sys.exit(f"{path}: no member {min(missing)}")
    return found


def _read_deb(path: Path, members: set[str]) -> dict[str, bytes]:
    """A .deb is an ar archive; its files are in the tar inside that is called data.tar.*."""
    found: dict[str, bytes] = {}
    with path.open("rb") as file:
        if file.read(8) != b"!<arch>\n":
            sys.exit(f"{path}: not a Debian package")
        while len(header := file.read(60)) == 60:
            name, size = header[:16].decode().strip().rstrip("/"), int(header[48:58])
            if not name.startswith("data.tar"):
                file.seek(size + size % 2, 1)
                continue
            with tarfile.open(fileobj=file, mode="r|*") as inner:
                for entry in inner:
                    if (short := entry.name.removeprefix("./")) in members and (stream := inner.extractfile(entry)):
                        found[short] = stream.read()
            break
    return found
