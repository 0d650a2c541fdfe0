"""Uploads a folder to the Hugging Face hub: the one file that needs a network."""

from pathlib import Path

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
        ValueError: the hub refuses or cannot be reached; the repository is public and `private` was asked for.
    """
    import huggingface_hub

    api = huggingface_hub.HfApi(token=token)
    try:
        address = api.create_repo(name, private=private, exist_ok=True)
        is_private = bool(api.model_info(address.repo_id).private)
        if is_private or not private:
            # What lies there of a model before goes with the same commit.
            api.upload_folder(
                repo_id=address.repo_id, folder_path=folder, commit_message=message, delete_patterns=["*"]
            )
    except Exception as error:  # of several libraries, which change from version to version
        raise ValueError(f"dst={PREFIX}{name}: the hub did not take it: {one_line(error)}") from error
    if private and not is_private:
        raise ValueError(f"dst={PREFIX}{name} is there already and public; nothing was uploaded: give private=false, or another name")  # fmt: skip
    return str(address)
