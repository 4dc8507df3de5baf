"""Makes the wheel of `lomusai-local` from one of `lomusai` that was built with the feature `local`: ``local_wheel.py WHEEL FOLDER``.

It holds the compiled part and nothing else, and is found by `lomusai` where both are installed. Prints the path of what it made.
"""

from __future__ import annotations

import base64
import hashlib
import sys
import zipfile
from pathlib import Path

INIT = '''"""The compiled part of `lomusai` with models in the process. Install it beside `lomusai`, which finds it."""

__version__ = "{version}"
'''

METADATA = """Metadata-Version: 2.4
Name: lomusai-local
Version: {version}
Summary: Models in the process for lomusai: GGUF files by llama.cpp
License-Expression: MIT OR Apache-2.0
Requires-Python: >=3.10
Requires-Dist: lomusai=={version}
"""


def make(wheel: Path, folder: Path) -> Path:
    name, version, *tags = wheel.stem.split("-")
    assert name == "lomusai", wheel
    made = folder / "-".join(["lomusai_local", version, *tags])
    made = made.with_name(made.name + ".whl")
    info = f"lomusai_local-{version}.dist-info"
    with zipfile.ZipFile(wheel) as old:
        [library] = [item for item in old.infolist() if item.filename.endswith(".abi3.so")]
        [kind] = [item for item in old.infolist() if item.filename.endswith(".dist-info/WHEEL")]
        files = {
            "lomusai_local/__init__.py": INIT.format(version=version).encode(),
            f"lomusai_local/{Path(library.filename).name}": old.read(library),
            f"{info}/METADATA": METADATA.format(version=version).encode(),
            f"{info}/WHEEL": old.read(kind),
        }
    rows = [f"{name},sha256={digest(content)},{len(content)}\n" for name, content in files.items()]
    files[f"{info}/RECORD"] = "".join([*rows, f"{info}/RECORD,,\n"]).encode()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as new:
        for name, content in files.items():
            # With one time for all: a wheel of the same sources is the same wheel.
            item = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
            item.external_attr = 0o644 << 16
            new.writestr(item, content, zipfile.ZIP_DEFLATED)
    return made


def digest(content: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()


if __name__ == "__main__":
    print(make(Path(sys.argv[1]), Path(sys.argv[2])))
