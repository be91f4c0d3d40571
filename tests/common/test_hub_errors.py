"""Failures of the Hub become user errors that say what to do."""

import errno

import httpx
import pytest
from huggingface_hub.errors import (
    GatedRepoError,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from open_instruct.common.errors import UserError
from open_instruct.common.hub_errors import HubUnreachableError, hub_errors


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (GatedRepoError, "request access on its page, then `hf auth login`"),
        (RepositoryNotFoundError, "no such repository, or a private one; check the name"),
        (RevisionNotFoundError, "no such revision; see --list"),
        (RemoteEntryNotFoundError, "no such file in this revision"),
    ],
)
def test_a_refused_request_is_named_with_what_to_do(kind, message):
    response = httpx.Response(404, request=httpx.Request("GET", "https://huggingface.co"))
    with pytest.raises(UserError, match=rf"^org/model: .*{message}") as failure, hub_errors("org/model", next_step=""):
        raise kind("refused", response=response)
    assert not isinstance(failure.value, HubUnreachableError)


@pytest.mark.parametrize("error", [httpx.ConnectError("no route to host"), OSError("no route to host")])
def test_an_unreachable_hub_is_named_by_its_endpoint_with_the_reason_and_the_next_step(error, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "https://hub.example")
    message = (
        rf"org/model: the Hub at https://hub\.example .*{type(error).__name__}: no route to host\); try again later"
    )
    with pytest.raises(HubUnreachableError, match=message), hub_errors("org/model", next_step="try again later"):
        raise error


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EACCES])
def test_a_file_that_cannot_be_written_here_is_not_the_hubs_fault(number):
    with pytest.raises(OSError, match="of this machine"), hub_errors("org/model", next_step="try again later"):
        raise OSError(number, "of this machine")
