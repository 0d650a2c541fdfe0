"""What `make isolated` does: interpretability tools in an environment of their own, built here, that the project's own never sees.

1. `.isolated/` gets torch, transformers, TransformerLens and nnsight at the versions of constraints-interop.txt, and no sparsetrain: `check_hub.py`.
2. Then `sparsetrain[interop]` is installed there as a user would: `check_tools.py`, and every block of docs/interop.md.
3. Packages that do not resolve, or cannot be had, end in one line that begins with NOT CHECKED and in exit code 0: that is their matter, not
   the project's, and it is said. Everything else that fails fails.
"""

import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[2]
VENV = ROOT / ".isolated"
PYTHON = VENV / "bin" / "python"
CONSTRAINTS = ROOT / "constraints-interop.txt"
TOOLS = ("torch", "transformers", "accelerate", "transformer-lens", "nnsight")
PAGE = ROOT / "docs" / "interop.md"
FENCE = re.compile(r"(?:^<!-- not run: (?P<reason>[^>]*) -->\n)?^```(?P<language>\w*)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)  # fmt: skip
PATIENCE = 900
"""Seconds that pip gets: where versions do not go together it may try them for hours."""
ELSEWHERE = "runs in an environment of its own"
"""Why tests/e2e/test_docs.py does not run a block: it is run here."""


class NotResolved(Exception):
    """The packages cannot be had together."""


def install(*what: str) -> None:
    """Installs into the isolated environment.

    Raises:
        NotResolved: pip's last word.
    """
    command = [str(PYTHON), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-c", str(CONSTRAINTS), *what]  # fmt: skip
    try:
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=PATIENCE)
    except subprocess.TimeoutExpired:
        raise NotResolved(f"pip has not finished in {PATIENCE // 60} minutes") from None
    if done.returncode:
        lines = [line for line in (done.stdout + done.stderr).splitlines() if line.startswith("ERROR")]
        raise NotResolved(lines[-1] if lines else (done.stderr.strip().splitlines() or ["pip failed"])[-1])


def environment(scratch: Path) -> dict[str, str]:
    """Of what runs in there: no network, no path of this checkout, code of repositories in a folder of its own."""
    kept = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "VIRTUAL_ENV")}
    offline = {"HF_HUB_OFFLINE": "1", "HF_MODULES_CACHE": str(scratch / "modules"), "HF_HOME": str(scratch / "hf"), "OMP_NUM_THREADS": "1"}  # fmt: skip
    return {**kept, **offline, "TRANSFORMERS_VERBOSITY": "error", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}


def run(arguments: Sequence[str], cwd: Path, scratch: Path) -> None:
    """A command in the isolated environment; what it prints is shown, what it warns of only if it fails.

    Raises:
        SystemExit: it failed.
    """
    done = subprocess.run(
        [str(PYTHON), *arguments],
        cwd=cwd,
        env=environment(scratch),
        text=True,
        stdin=subprocess.DEVNULL,
        capture_output=True,
    )
    print(done.stdout, end="", flush=True)
    if done.returncode:
        sys.exit(f"{' '.join(arguments)[:200]}\n{done.stderr[-4000:]}")


def page(scratch: Path) -> None:
    """Commands and Python of docs/interop.md, in order, as a reader would type them."""
    desk = scratch / "desk"
    desk.mkdir()
    (desk / "scripts").symlink_to(ROOT / "scripts")
    (desk / "texts.jsonl").write_text('{"text": "for i in range(10):\\n    print(i)\\n"}\n' * 40)
    program, n_commands = "", 0
    for block in FENCE.finditer(PAGE.read_text()):
        if block["reason"] not in (None, ELSEWHERE):
            continue
        if block["language"] == "sh":
            for line in block["text"].replace("\\\n", " ").splitlines():
                words = shlex.split(re.sub(r"\s+#\s.*$", "", line).replace("<file.jsonl>", "texts.jsonl"))
                assert words[0] == "python", f"docs/interop.md: what is {words}?"
                run(words[1:], desk, scratch)
                n_commands += 1
        elif block["language"] == "python":
            program += block["text"] + "\n"
    (desk / "page.py").write_text(program)
    run(["page.py"], desk, scratch)
    print(f"docs/interop.md: {n_commands} commands, {program.count(chr(10))} lines of Python run")


def main() -> None:
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        shutil.rmtree(VENV, ignore_errors=True)
        subprocess.run([sys.executable, "-m", "venv", str(VENV)], check=True)
        try:
            install(*TOOLS)
            print(f"isolated environment: {time.perf_counter() - started:.0f} s", flush=True)
            models = scratch / "models"
            subprocess.run([sys.executable, str(ROOT / "tests/isolated/write_models.py"), str(models)], check=True, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)})  # fmt: skip
            run([str(ROOT / "tests/isolated/check_hub.py"), str(models)], scratch, scratch)
            install(f"{ROOT}[interop]")
            run([str(ROOT / "tests/isolated/check_tools.py"), str(models)], scratch, scratch)
            page(scratch)
        except NotResolved as error:
            print(f"NOT CHECKED: TransformerLens, nnsight and the page docs/interop.md, because their packages do not resolve here: {error}")  # fmt: skip
            return
    print(f"isolated checks pass: {time.perf_counter() - started:.0f} s in all")


if __name__ == "__main__":
    main()
