"""Load the tensors of a torch file, a pickle, without executing code."""

import pickle
from pathlib import Path

import torch

from open_instruct.common.errors import UserError


def load_torch(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a torch file, mapped from disk. Nothing but tensors is unpickled.

    Raises UserError for any other content: a truncated file, a web page, code.
    """
    try:
        state = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
    except (RuntimeError, pickle.UnpicklingError, EOFError, OSError, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(
            f"{path} ({path.stat().st_size:,} bytes) is no state dict of tensors, or is cut short: {reason}; "
            "nothing in it was executed; download it again from a source you trust"
        ) from error
    if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise UserError(f"{path}: expected a dict of tensors, found {type(state).__name__}; download it again")
    return state
