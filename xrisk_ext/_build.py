"""Loads the compiled extension, or says in one line why it cannot be loaded."""

import importlib
import json
from pathlib import Path
from types import ModuleType

import torch

_CONFIG = Path(__file__).with_name("_build_config.json")
_REBUILD = "rebuild it in its source folder: pip install --no-build-isolation --no-deps -e ."


def load_extension() -> ModuleType:
    """Imports ``_C`` after checking that it was built for the torch that is running.

    An extension that was compiled against another torch may crash or compute nonsense: it is not
    even loaded.
    """
    if _CONFIG.exists():
        built_for = json.loads(_CONFIG.read_text())["torch"]
        if built_for.split("+")[0] != torch.__version__.split("+")[0]:
            raise ImportError(
                f"xrisk_ext was built for torch {built_for}, but torch {torch.__version__} is "
                f"running; {_REBUILD}"
            )
    try:
        return importlib.import_module("xrisk_ext._C")
    except ImportError as error:
        if str(error).startswith("XRISK_"):  # a wrong environment variable; the build is sound
            raise
        raise ImportError(
            f"the extension of xrisk_ext cannot be loaded ({error}); {_REBUILD}"
        ) from error
