"""`make gpu` puts Paddle's GPU build in the CPU build's place, and it stays; the page's commands are commands.

uv itself installs here, from an index on this machine with stand-in wheels.
"""

from __future__ import annotations

import functools
import os
import re
import shlex
import shutil
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[3]
UV = REPOSITORY / ".bootstrap/bin/uv"
PROJECT = """
[project]
name = "stand-in"
version = "1"
requires-python = ">=3.11,<3.14"
dependencies = ["paddlepaddle==3.3.1"]
[dependency-groups]
slurm = ["stand-in-slurm==1"]
other = ["stand-in-other==1"]
[tool.uv]
package = false
"""


def wheel(folder: Path, name: str, version: str, module: str, text: str, needs: str = "") -> None:
    stem = name.replace("-", "_")
    folder = folder / name
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{stem}-{version}-py3-none-any.whl"
    about = f"{stem}-{version}.dist-info"
    files = {
        f"{module}/__init__.py": text,
        f"{about}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
        + (f"Requires-Dist: {needs}\n" if needs else ""),
        f"{about}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    with zipfile.ZipFile(path, "w") as archive:
        for file, content in files.items():
            archive.writestr(file, content)
        archive.writestr(f"{about}/RECORD", "".join(f"{file},,\n" for file in [*files, f"{about}/RECORD"]))
    (folder / "index.html").write_text(f'<a href="{path.name}">{path.name}</a>')


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def index(tmp_path: Path) -> Iterator[str]:
    served = tmp_path / "served"
    wheel(served / "simple", "paddlepaddle", "3.3.1", "paddle", "BUILD = 'cpu'\n")
    for name in ("slurm", "other"):
        wheel(served / "simple", f"stand-in-{name}", "1", f"stand_in_{name}", "")
    wheel(served / "simple", "nvidia-stand-in", "12", "nvidia_stand_in", "")
    for cuda in ("cu126", "cu129"):
        wheel(served / "gpu" / cuda, "paddlepaddle-gpu", "3.3.1", "paddle", f"BUILD = '{cuda}'\n", "nvidia-stand-in")
    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(served)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


@pytest.mark.skipif(not UV.exists(), reason="uv is not beside this project: it was set up in another way")
def test_the_gpu_build_stays_and_groups_add_up(index: str, tmp_path: Path) -> None:
    project = tmp_path / "project"
    shutil.copytree(REPOSITORY / "tools", project / "tools")
    (project / "pyproject.toml").write_text(PROJECT)
    smi = tmp_path / "bin" / "nvidia-smi"
    smi.parent.mkdir()
    smi.write_text("#!/bin/sh\necho 550.54.15\n")
    smi.chmod(0o755)
    environment = {
        "PATH": f"{smi.parent}:/usr/bin:/bin",
        "HOME": str(tmp_path),
        "UV_CACHE_DIR": str(tmp_path / "cache"),
        "UV_DEFAULT_INDEX": f"{index}/simple",
        "NO_PROXY": "127.0.0.1",
        "UV": str(UV),
        "PYTHON": os.path.realpath(sys.executable),
    }
    subprocess.run(
        [UV, "lock", "--python", environment["PYTHON"]], cwd=project, env=environment, check=True, capture_output=True
    )

    def set_up(**variables: str) -> str:
        done = subprocess.run(
            ["tools/set_up.sh"], cwd=project, env=environment | variables, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stderr

    def installed() -> tuple[str, set[str]]:
        code = (
            "import paddle; from importlib.metadata import distributions as d\n"
            "print(paddle.BUILD, *{x.metadata['Name'] for x in d()})"
        )
        build, *names = subprocess.run(
            [project / ".venv/bin/python", "-c", code], capture_output=True, text=True, check=True
        ).stdout.split()
        return build, set(names)

    gpu = {"paddlepaddle-gpu", "nvidia-stand-in"}
    set_up()
    assert installed() == ("cpu", {"paddlepaddle"})
    assert not (project / ".bootstrap").exists()
    set_up(ADD_GROUPS="slurm")
    assert installed() == ("cpu", {"paddlepaddle", "stand-in-slurm"})
    assert "cu126" in set_up(PADDLE="auto", PADDLE_INDEX=f"{index}/gpu")
    assert installed() == ("cu126", gpu | {"stand-in-slurm"})
    assert "paddlepaddle-gpu" not in set_up()  # what `make run` does when uv.lock has changed: nothing to install
    assert installed() == ("cu126", gpu | {"stand-in-slurm"})
    set_up(ADD_GROUPS="other")
    assert installed() == ("cu126", gpu | {"stand-in-slurm", "stand-in-other"})
    (project / ".venv/.petrflow-paddle").write_text("unfinished\n")  # killed between the two builds
    set_up()
    assert installed()[0] == "cu126"
    shutil.rmtree(project / ".venv")
    set_up(PADDLE="cu129")
    assert installed() == ("cu129", gpu | {"stand-in-slurm", "stand-in-other"})
    set_up(PADDLE="cpu")
    assert installed() == ("cpu", {"paddlepaddle", "stand-in-slurm", "stand-in-other"})


@pytest.mark.parametrize(
    ("driver", "says"), [("470.57.02", "Driver 470.57.02 is too old"), ("NVIDIA-SMI has failed", "says no driver's")]
)
def test_a_driver_that_serves_no_build_is_said_before_anything_is_installed(
    driver: str, says: str, tmp_path: Path
) -> None:
    project = tmp_path / "project"
    shutil.copytree(REPOSITORY / "tools", project / "tools")
    smi = tmp_path / "nvidia-smi"
    smi.write_text(f"#!/bin/sh\necho '{driver}'\n")
    smi.chmod(0o755)
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin", "HOME": str(tmp_path), "PADDLE": "auto", "UV": "/nowhere/uv"}
    done = subprocess.run(
        ["tools/set_up.sh"], cwd=project, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert says in done.stderr
    assert len(done.stderr.splitlines()) == 1


def commands(page: str) -> list[list[str]]:
    """Return the commands of a page's indented blocks, one list of words each."""
    lines = [line[4:] for line in (REPOSITORY / page).read_text().splitlines() if line.startswith("    ")]
    text = re.sub(r"<<'END'.*?\nEND\n", "\n", "\n".join(lines) + "\n", flags=re.DOTALL)
    found = [shlex.split(line, comments=True) for line in text.splitlines()]
    return [words for whole in found for words in split(whole) if words]


def split(words: list[str]) -> list[list[str]]:
    parts: list[list[str]] = [[]]
    for word in words:
        if word == "&&":
            parts.append([])
        else:
            parts[-1].append(word)
    return parts


@pytest.mark.parametrize("page", ["docs/gpu.md", "docs/zh/gpu.md"])
def test_every_command_of_the_gpu_page_is_parsed(page: str) -> None:
    from snakemake.cli import get_argument_parser

    seen = set()
    for whole in commands(page):
        in_container = whole[0] == "docker" and "snakemake" in whole
        words = whole[whole.index("snakemake") :] if in_container else whole
        program = words[0].rpartition("/")[2]
        if program == "snakemake":
            parsed = get_argument_parser().parse_args(words[1:])
            assert parsed.targets == ["all"], words
            assert all((REPOSITORY / file).exists() for file in parsed.configfile), words
        elif program == "make":
            # Variables that a target does not know would be taken without a word.
            names = {word.partition("=")[0] for word in words[1:] if "=" in word}
            makefile = (REPOSITORY / "Makefile").read_text()
            forms = ("$({})", "$(or $({})", "export {}\n")
            assert all(any(form.format(name) in makefile for form in forms) for name in names), words
            done = subprocess.run(
                ["make", "-n", *words[1:]], cwd=REPOSITORY, capture_output=True, text=True, check=False
            )
            assert done.returncode == 0, done.stderr
        else:
            assert program in {"git", "cd", "python3.12", ".", "python", "pip", "bash", "docker", "mkdir", "ln"}, words
            if program == "bash":
                subprocess.run(["bash", "-n", words[1]], cwd=REPOSITORY, check=True)
        seen.add(program)
    assert {"snakemake", "make", "docker", "bash"} <= seen
