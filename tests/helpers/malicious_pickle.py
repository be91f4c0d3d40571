"""An object whose pickle executes code when it is loaded carelessly."""

import os
from pathlib import Path


class Payload:
    """Makes the folder `path` when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.path),)
