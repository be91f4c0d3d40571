"""Failures of the Hugging Face Hub as user errors."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager

from open_instruct.common.errors import UserError


class HubUnreachableError(UserError):
    """The Hub does not answer: further requests would only cost time."""


OWN_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS)
"""Error numbers that say that a file could not be written here."""


@contextmanager
def hub_errors(name: str, *, next_step: str) -> Iterator[None]:
    """Translate failures of the Hub inside the block into user errors about `name`.

    Raises HubUnreachableError, whose message ends in `next_step`, where the Hub does not answer; UserError where it
    refuses the request.
    """
    import httpx  # this and huggingface_hub take 0.2 s to import, and offline sources do not need them
    from huggingface_hub.errors import (
        GatedRepoError,
        HFValidationError,
        RemoteEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        yield
    except GatedRepoError as error:
        message = "its owners grant access one by one; request access on its page, then `hf auth login`"
        raise UserError(f"{name}: {message}") from error
    except RepositoryNotFoundError as error:
        raise UserError(f"{name}: no such repository, or a private one; check the name, or `hf auth login`") from error
    except RevisionNotFoundError as error:
        raise UserError(f"{name}: no such revision; see --list (checkpoints) or the page of the repository") from error
    except RemoteEntryNotFoundError as error:
        raise UserError(f"{name}: no such file in this revision; see the page of the repository") from error
    except HFValidationError as error:
        raise UserError(f"{name}: no name of a repository; {error}") from error
    except (OSError, httpx.HTTPError) as error:
        if error.__cause__ is None and isinstance(error, OSError) and error.errno in OWN_DISK:
            raise  # common/cli.py names it
        endpoint = os.environ.get("HF_ENDPOINT") or "https://huggingface.co"
        reason = (str(error.__cause__ or error).strip() or "no reason given").splitlines()[0]
        raise HubUnreachableError(
            f"{name}: the Hub at {endpoint} cannot be reached or broke off ({type(error).__name__}: {reason}); "
            f"{next_step}"
        ) from error
