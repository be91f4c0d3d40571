"""Publish a finished model on the Hub."""

from pathlib import Path

from huggingface_hub import HfApi, get_token
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from huggingface_hub.utils import validate_repo_id

from open_instruct.common.errors import UserError
from open_instruct.common.model_files import first_line


def require_login(repository: str) -> None:
    """Raises UserError where the repository's name is not valid, or there is no login: before hours of training."""
    try:
        validate_repo_id(repository)
    except HFValidationError as error:
        raise UserError(f"--push_to_hub {repository}: {error}") from error
    if get_token() is None:
        raise UserError(f"--push_to_hub {repository} needs a login; `hf auth login`, or set HF_TOKEN")


def publish(folder: Path, repository: str) -> str:
    """Upload everything in `folder`; create the repository where there is none.  -> URL of the commit

    Raises UserError where the Hub refuses.
    """
    api = HfApi()
    try:
        api.create_repo(repository, exist_ok=True)
        commit = api.upload_folder(repo_id=repository, folder_path=folder, commit_message=f"Upload {folder.name}")
    except HfHubHTTPError as error:
        raise UserError(
            f"the Hub refused {repository}: {first_line(error)}; the model is complete in {folder}, start again to "
            "publish it"
        ) from error
    return commit.commit_url
