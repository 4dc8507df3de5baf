"""The package as it is installed: examples, the README's program, stubs that agree with the native module."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import lomusai
from lomusai import _lomusai

ROOT = Path(__file__).parents[3]
PACKAGE = Path(lomusai.__file__).parent

EXAMPLES = {
    "hello": ["Hello from Lomusai!"],
    "tools": ["add: 5 (ok)", "(error)", "2 + 3 is 5"],
    "provider": ["POLLY WANTS SALT", "{'input': 3, 'output': 3}"],
    "stream": ["Salt |on |the |wind,", "message: assistant", "status: completed"],
    "approval": ["suspended ['pay']", "Ada has her money."],
    "workflow": [
        "suspended ['boss']",
        "paying back 120 under the key refund-1/pay",
        "completed ['told Ada', 'told Bob']",
    ],
}


@pytest.mark.parametrize("name", EXAMPLES)
def test_example(name: str) -> None:
    example = ROOT / "examples/python" / f"{name}.py"
    done = subprocess.run([sys.executable, example], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    for line in EXAMPLES[name]:
        assert line in done.stdout


def test_the_program_of_the_readme() -> None:
    page = ROOT.joinpath("bindings/python/README.md").read_text()
    found = re.search(r"```python\n(.*?)```", page, re.S)
    assert found
    done = subprocess.run([sys.executable, "-c", found[1]], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (0, "1 + 2 is 3.\n"), done.stderr


def test_the_workflow_of_the_main_readme(tmp_path: Path) -> None:
    program = re.findall(r"```python\n(.*?)```", ROOT.joinpath("README.md").read_text(), re.S)[1]
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, "charged 80\n"), done.stderr


def test_the_package_is_typed() -> None:
    assert (PACKAGE / "py.typed").exists()
    assert (PACKAGE / "_lomusai.pyi").exists()


def test_the_stub_names_what_the_native_module_has() -> None:
    stub = ast.parse((PACKAGE / "_lomusai.pyi").read_text())
    classes = {node.name: node for node in stub.body if isinstance(node, ast.ClassDef)}
    functions = {node.name for node in stub.body if isinstance(node, ast.FunctionDef)}
    native = {name for name in vars(_lomusai) if not name.startswith("__")}
    assert native == set(classes) | functions
    for name, node in classes.items():
        own = {item.name for item in node.body if isinstance(item, ast.FunctionDef)}
        has = {item for item in vars(getattr(_lomusai, name)) if not item.startswith("__") or item in own}
        assert has == own, name


def test_everything_public_is_documented() -> None:
    for name in lomusai.__all__:
        thing = getattr(lomusai, name)
        if isinstance(thing, type):
            assert thing.__doc__, name
            for method, value in vars(thing).items():
                if callable(value) and not method.startswith("_"):
                    assert value.__doc__ or getattr(thing.__mro__[1], method, None), f"{name}.{method}"


def test_importing_is_quick_and_brings_no_asyncio() -> None:
    program = "import sys, lomusai; print('asyncio' in sys.modules, 'pydantic' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "False False\n"


def with_local(folder: Path, version: str) -> subprocess.CompletedProcess[str]:
    """Imports the package where one with models in the process seems to be installed beside it."""
    package = folder / "lomusai_local"
    package.mkdir()
    (package / "__init__.py").write_text(f"__version__ = {version!r}\n")
    (package / "_lomusai.py").write_text("raise SystemExit('taken')\n")
    # What pip writes down of `lomusai` itself.
    installed = folder / f"lomusai-{lomusai.__version__}.dist-info"
    installed.mkdir()
    (installed / "METADATA").write_text(f"Metadata-Version: 2.4\nName: lomusai\nVersion: {lomusai.__version__}\n")
    program = f"import sys; sys.path.insert(0, {str(folder)!r}); import lomusai"
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)


def test_the_compiled_part_with_models_is_taken_where_it_is_installed(tmp_path: Path) -> None:
    assert with_local(tmp_path, lomusai.__version__).stderr == "taken\n"


def test_a_compiled_part_of_another_version_is_refused(tmp_path: Path) -> None:
    said = with_local(tmp_path, "0.0.1").stderr
    assert f"lomusai-local 0.0.1 does not fit lomusai {lomusai.__version__}: pip install" in said, said
