"""Publish a finished model on the Hub."""

from pathlib import Path

from huggingface_hub import HfApi, get_token
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from huggingface_hub.utils import validate_repo_id

from open_instruct.common.errors import UserError


def require_login(repository: str) -> None:
    """Raises UserError where the name cannot be one, or nobody is logged in: before hours of training."""
    try:
        validate_repo_id(repository)
    except HFValidationError as error:
        raise UserError(f"--push_to_hub {repository}: {error}") from error
    if get_token() is None:
        raise UserError(f"--push_to_hub {repository} needs a login; `hf auth login`, or set HF_TOKEN")


def publish(folder: Path, repository: str) -> str:
    """Upload everything in `folder`; the repository is made where there is none.  -> address of the commit

    Raises UserError where the Hub refuses.
    """
    api = HfApi()
    try:
        api.create_repo(repository, exist_ok=True)
        commit = api.upload_folder(repo_id=repository, folder_path=folder, commit_message=f"Upload {folder.name}")
    except HfHubHTTPError as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(
            f"the Hub refused {repository}: {reason}; the model is whole in {folder}, start again to publish it"
        ) from error
    return commit.commit_url
