"""Which compiled part is used: where `lomusai-local` is installed that one, with models in the process, or our own."""

import importlib
import importlib.util
import sys


def _choose() -> None:
    if importlib.util.find_spec("lomusai_local") is None:
        return
    local = importlib.import_module("lomusai_local")
    from importlib.metadata import PackageNotFoundError, version

    try:
        own = version("lomusai")
    except PackageNotFoundError:
        # Run from its sources.
        own = local.__version__
    if local.__version__ != own:
        raise ImportError(
            f"lomusai-local {local.__version__} does not fit lomusai {own}: pip install lomusai-local=={own}"
        )
    sys.modules["lomusai._lomusai"] = importlib.import_module("lomusai_local._lomusai")


_choose()
