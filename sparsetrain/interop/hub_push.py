"""Uploads a folder to the Hugging Face hub: the one file that needs a network."""

from pathlib import Path

from sparsetrain.interop.hub_folder import FILES
from sparsetrain.interop.one_file import FILE_NAME
from sparsetrain.typed import one_line

PREFIX = "hf:"


def token_of(name: str) -> str:
    """The user's token, looked for before anything is made.

    Raises:
        ValueError: a name that is none, or nobody is logged in.
    """
    import huggingface_hub

    if not name or name.count("/") > 1 or any(char.isspace() for char in name):
        raise ValueError(f"dst={PREFIX}{name} names no repository; give dst={PREFIX}<user or organisation>/<name>")
    token = huggingface_hub.get_token()
    if token is None:
        raise ValueError(f"dst={PREFIX}{name} needs a token of the Hugging Face hub: run hf auth login, or set HF_TOKEN; a folder needs none (dst=<folder>)")  # fmt: skip
    return token


def upload(folder: Path, name: str, token: str, *, private: bool, message: str) -> str:
    """Uploads a folder, making the repository if it is not there; returns its address.

    Raises:
        ValueError: the hub refuses or cannot be reached; the repository is public and `private` was asked for, or holds another kind of model.
    """
    import huggingface_hub

    api = huggingface_hub.HfApi(token=token)
    is_others = False
    try:
        address = api.create_repo(name, private=private, exist_ok=True)
        is_private = bool(api.model_info(address.repo_id).private)
        if is_private or not private:
            there = set(api.list_repo_files(address.repo_id))
            is_others = "config.json" in there and FILE_NAME not in there
            if not is_others:
                # What an earlier push wrote and this one does not goes with the same commit; files of other names stay.
                api.upload_folder(
                    repo_id=address.repo_id, folder_path=folder, commit_message=message, delete_patterns=list(FILES)
                )
    except Exception as error:  # of several libraries, which change from version to version
        raise ValueError(f"dst={PREFIX}{name}: the hub did not take it: {one_line(error)}") from error
    if private and not is_private:
        raise ValueError(f"dst={PREFIX}{name} is there already and public; nothing was uploaded: give private=false, or another name")  # fmt: skip
    if is_others:
        raise ValueError(f"dst={PREFIX}{name} holds a model that is none of ours (no {FILE_NAME}); nothing was uploaded: give another name")  # fmt: skip
    return str(address)
