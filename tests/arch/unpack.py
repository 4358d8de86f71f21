"""Unpack wheels of another machine: `unpack.py WHEELS PREFIX SITE_PACKAGES`. pip installs only what runs where it runs."""

import stat
import sys
import zipfile
from pathlib import Path


def main() -> None:
    wheels, prefix, site = map(Path, sys.argv[1:])
    places = {"data": prefix, "scripts": prefix / "bin", "purelib": site, "platlib": site}
    for wheel in sorted(wheels.glob("*.whl")):
        with zipfile.ZipFile(wheel) as archive:
            for member in archive.infolist():
                if member.is_dir():
                    continue
                first, *rest = member.filename.split("/")
                target = places[rest[0]].joinpath(*rest[1:]) if first.endswith(".data") else site / member.filename
                mode = member.external_attr >> 16
                target.parent.mkdir(parents=True, exist_ok=True)
                if stat.S_ISLNK(mode):
                    target.symlink_to(archive.read(member).decode())
                else:
                    target.write_bytes(archive.read(member))
                    is_program = mode & 0o111 or (first.endswith(".data") and rest[0] == "scripts")
                    target.chmod(0o755 if is_program else 0o644)


if __name__ == "__main__":
    main()
