"""Puts a stripped library into a wheel: ``repack_wheel.py WHEEL LIBRARY``. The wheel's list of its files follows."""

from __future__ import annotations

import base64
import hashlib
import sys
import zipfile
from pathlib import Path


def repack(wheel: Path, library: bytes) -> None:
    made = wheel.with_suffix(".new")
    with zipfile.ZipFile(wheel) as old, zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as new:
        for item in old.infolist():
            content = old.read(item)
            if item.filename.endswith(".abi3.so"):
                content = library
            elif item.filename.endswith(".dist-info/RECORD"):
                content = record(content.decode(), library).encode()
            # With its time and rights as they were: a wheel of the same sources is the same wheel.
            new.writestr(item, content)
    made.replace(wheel)


def record(text: str, library: bytes) -> str:
    digest = base64.urlsafe_b64encode(hashlib.sha256(library).digest()).rstrip(b"=").decode()
    lines = text.splitlines()
    place = next(i for i, line in enumerate(lines) if line.split(",")[0].endswith(".abi3.so"))
    lines[place] = f"{lines[place].split(',')[0]},sha256={digest},{len(library)}"
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    repack(Path(sys.argv[1]), Path(sys.argv[2]).read_bytes())
