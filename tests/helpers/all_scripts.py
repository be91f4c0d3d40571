"""Every script that a user runs, by the name of its module."""

import importlib
from types import ModuleType

from open_instruct.common.paths import REPOSITORY

SCRIPTS = [
    *(f"open_instruct.{path.stem}" for path in sorted((REPOSITORY / "open_instruct").glob("[!_]*.py"))),
    *(f"eval.{path.stem}" for path in sorted((REPOSITORY / "eval").glob("[!_]*.py"))),
    *(f"analysis.{path.stem}" for path in sorted((REPOSITORY / "analysis").glob("[!_]*.py"))),
    *("open_instruct.olmo_hf.convert_olmo_to_tf", "olmo_eval.run_lm_eval", "scripts.run_study", "scripts.run_job"),
]


def script_named(name: str) -> ModuleType:
    """The script's module, which has its arguments as `Args`."""
    return importlib.import_module(name)
