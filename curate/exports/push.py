"""An export to the Hugging Face hub, private unless told otherwise.

The token is the hub library's own business: it comes from `HF_TOKEN` or a login, and is neither read nor shown here.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

from curate.errors import UserError
from curate.runtime import hubs

# What exports write: in the repository these go when the new export has them no more.
OURS = ("data/*", "annotations/*", "images/*", "*.json")


class HubApi(Protocol):
    """The part of `huggingface_hub.HfApi` that is used; `endpoint` is the hub's address, as `HF_ENDPOINT` has it."""

    endpoint: str

    def create_repo(self, repo_id: str, *, repo_type: str, private: bool, exist_ok: bool) -> Any: ...
    def repo_info(self, repo_id: str, *, repo_type: str) -> Any: ...
    def upload_folder(
        self, *, repo_id: str, folder_path: Path, repo_type: str, commit_message: str, delete_patterns: list[str]
    ) -> Any: ...


def hub() -> HubApi:
    """The hub as the environment says; UserError when its library is not there."""
    try:
        from huggingface_hub import HfApi
    except ModuleNotFoundError:
        raise UserError("--push needs huggingface_hub; install it with: pip install 'curate-prm[hub]'.") from None
    made: HubApi = HfApi()
    return made


def check_name(repo: str) -> None:
    """UserError when it is no owner and name."""
    from huggingface_hub.utils import HFValidationError, validate_repo_id

    try:
        validate_repo_id(repo)
    except HFValidationError:
        repo = ""
    if repo.count("/") != 1:
        raise UserError("--push takes a repository as owner/name.")


def push(folder: Path, repo: str, public: bool, api: HubApi) -> str:
    """Upload a whole export; the address at the hub that took it. UserError for whatever the hub does not allow.

    A repository that is there keeps its visibility: where it is not the wanted one, nothing is uploaded.
    """
    try:
        api.create_repo(repo, repo_type="dataset", private=not public, exist_ok=True)
        private = bool(api.repo_info(repo, repo_type="dataset").private)
        if private == public:
            cure = "make it public there, or leave --public out" if private else "give --public, or another name"
            raise UserError(f"{repo} already exists and is {'private' if private else 'public'}; {cure}.")
        api.upload_folder(
            repo_id=repo,
            folder_path=folder,
            repo_type="dataset",
            commit_message="Export of curate-prm",
            delete_patterns=list(OURS),
        )
    except hubs.failures() as error:
        raise UserError(
            f"The export is in its folder, and was not pushed to {repo}: {hubs.reason(error)}; check the name, "
            "the network and the login (`hf auth login`, or HF_TOKEN)."
        ) from None
    return f"{api.endpoint.rstrip('/')}/datasets/{repo}"
