"""How `make` finds a Python: tools/pythons.sh and tools/set_up.sh on machines made of small scripts."""

from __future__ import annotations

import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[3]
SYSTEM = "/usr/bin:/bin"


def script(path: Path, *lines: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(["#!/bin/sh", *lines]) + "\n")
    path.chmod(0o755)
    return path


def python(path: Path, version: str) -> Path:
    """Make an interpreter that answers every question with its version, and can install nothing."""
    return script(path, f'case "$2" in *ensurepip*) exit 1;; esac; echo {version}')


def run(tool: str, home: Path, path: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {"HOME": str(home), "PATH": path, **variables}
    # In a project of their own: the .venv of this one must not count.
    shutil.copytree(REPOSITORY / "tools", home / "project" / "tools", dirs_exist_ok=True)
    command = ["/bin/bash", str(home / "project" / "tools" / tool)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=60)


@pytest.fixture
def bare(tmp_path: Path) -> Path:
    """A folder with the few system programs that the scripts call, and no Python."""
    folder = tmp_path / "bare"
    folder.mkdir()
    for name in ("bash", "sh", "dirname", "head", "mkdir", "ln"):
        found = next(Path(place) / name for place in SYSTEM.split(":") if (Path(place) / name).exists())
        (folder / name).symlink_to(found)
    return folder


def test_a_shim_that_fails_is_passed_over_and_the_next_of_its_name_is_taken(bare: Path, tmp_path: Path) -> None:
    script(tmp_path / "shims/python3.11", "echo 'pyenv: python3.11: command not found' >&2", "exit 127")
    script(tmp_path / "shims/python3.12", "echo 'pyenv: python3.12: command not found' >&2", "exit 127")
    behind = python(tmp_path / "behind/python3.12", "3.12")
    path = f"{tmp_path / 'shims'}:{tmp_path / 'behind'}:{bare}"
    assert run("pythons.sh", tmp_path, path).stdout.split() == [str(behind)]


def test_each_version_is_listed_once_from_path_pyenv_and_uv_in_order(bare: Path, tmp_path: Path) -> None:
    plain = python(tmp_path / "bin/python3", "3.13")
    pyenv = python(tmp_path / ".pyenv/versions/3.12.4/bin/python3.12", "3.12")
    python(tmp_path / ".pyenv/versions/3.13.1/bin/python3.13", "3.13")
    python(tmp_path / ".pyenv/versions/3.10.1/bin/python3.10", "3.10")
    uv = python(tmp_path / ".local/share/uv/python/cpython-3.11.9-linux-x86_64-gnu/bin/python3.11", "3.11")
    found = run("pythons.sh", tmp_path, f"{tmp_path / 'bin'}:{bare}").stdout.split()
    assert found == [str(uv), str(pyenv), str(plain)]


def test_the_python_of_the_environment_stays_until_another_is_named(bare: Path, tmp_path: Path) -> None:
    first, used = (python(tmp_path / f"bin/python{version}", version) for version in ("3.11", "3.13"))
    script(tmp_path / "project/.venv/bin/python", f"echo {used}")
    uv = script(tmp_path / "uv", f'echo "$@" > {tmp_path / "calls"}')
    for named, taken in [("", used), (str(first), first)]:
        done = run("set_up.sh", tmp_path, f"{tmp_path / 'bin'}:{bare}", UV=str(uv), PYTHON=named)
        assert done.returncode == 0, done.stderr
        assert (tmp_path / "calls").read_text().split()[-1] == str(taken)


def test_without_a_home_folder_path_is_searched(bare: Path, tmp_path: Path) -> None:
    found = python(tmp_path / "bin/python3", "3.12")
    command = ["/bin/bash", str(REPOSITORY / "tools/pythons.sh")]
    done = subprocess.run(
        command, env={"PATH": f"{tmp_path / 'bin'}:{bare}"}, capture_output=True, text=True, check=False
    )
    assert (done.stdout.split(), done.stderr) == ([str(found)], "")


def test_a_python_that_does_not_fit_is_named_with_its_version_and_the_remedy(bare: Path, tmp_path: Path) -> None:
    old = python(tmp_path / "python3.9", "3.9")
    for named, says in [(old, "is Python 3.9."), (tmp_path / "nothing", "does not start.")]:
        done = run("set_up.sh", tmp_path, str(bare), PYTHON=str(named), UV="uv")
        assert done.returncode == 1
        assert re.fullmatch(rf"petrflow needs Python .*{named} {says} Install one .*\n", done.stderr)


def test_the_first_python_of_several_is_taken(bare: Path, tmp_path: Path) -> None:
    versions = [python(tmp_path / f"bin/python{version}", version) for version in ("3.13", "3.12", "3.10")]
    uv = script(tmp_path / "uv", f'echo "$@" > {tmp_path / "calls"}')
    done = run("set_up.sh", tmp_path, f"{tmp_path / 'bin'}:{bare}", UV=str(uv))
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "calls").read_text() == f"sync --frozen --compile-bytecode --python {versions[1]}\n"


def test_beside_a_python_that_does_not_fit_those_that_do_are_named(bare: Path, tmp_path: Path) -> None:
    fits = [python(tmp_path / f"bin/python{version}", version) for version in ("3.12", "3.13")]
    done = run("set_up.sh", tmp_path, f"{tmp_path / 'bin'}:{bare}", PYTHON="python3.9", UV="uv")
    assert done.returncode == 1
    assert done.stderr.endswith(f"These fit: {fits[0]}, {fits[1]}. Name one of them (make PYTHON=PATH), or none.\n")


def test_where_no_python_fits_uv_brings_one(bare: Path, tmp_path: Path) -> None:
    brought = python(tmp_path / "brought/python3.12", "3.12")
    uv = script(
        tmp_path / "uv",
        f'echo "$@" >> {tmp_path / "calls"}',
        f'[ "$2" != find ] || echo {brought}',
    )
    done = run("set_up.sh", tmp_path, str(bare), UV=str(uv))
    assert done.returncode == 0, done.stderr
    calls = (tmp_path / "calls").read_text().splitlines()
    assert calls[0] == "python install 3.12"
    assert calls[-1] == f"sync --frozen --compile-bytecode --python {brought}"


def test_where_none_fits_and_none_can_be_brought_one_sentence_says_what_to_do(bare: Path, tmp_path: Path) -> None:
    uv = script(tmp_path / "uv", "echo 'error: Failed to download' >&2", "exit 2")
    done = run("set_up.sh", tmp_path, str(bare), UV=str(uv))
    assert done.returncode == 1
    assert "none was found, and uv could not download one" in done.stderr.splitlines()[-1]
    assert "make PYTHON=/path/to/python3.12" in done.stderr.splitlines()[-1]
    done = run("set_up.sh", tmp_path, str(bare), UV=str(tmp_path / "none"))
    assert done.returncode == 1
    assert done.stderr.startswith("No Python with venv and pip was found to install uv with.")


def test_the_project_its_scripts_and_the_preflight_name_the_same_pythons() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    assert project["requires-python"] == ">=3.11,<3.14"
    assert "for version in 3.11 3.12 3.13;" in (REPOSITORY / "tools/pythons.sh").read_text()
    assert "3.11 | 3.12 | 3.13)" in (REPOSITORY / "tools/set_up.sh").read_text()
    assert "Python 3.11, 3.12 or 3.13" in (REPOSITORY / "src/petrflow/preflight/fitness.py").read_text()


def test_the_image_copies_what_is_there_runs_without_rights_and_sets_up_as_make_does() -> None:
    lines = re.sub(r"\\\n", " ", (REPOSITORY / "Dockerfile").read_text()).splitlines()
    copied = [line.split()[1:-1] for line in lines if line.startswith("COPY") and "--from" not in line]
    assert [source for sources in copied for source in sources if not (REPOSITORY / source).exists()] == []
    assert [line for line in lines if line.startswith("USER")] == ["USER petrflow"]
    assert "tools/set_up.sh --no-dev" in "".join(lines)
    ignored = (REPOSITORY / ".dockerignore").read_text().split()
    assert not {"src", "workflow", "config", "resources", "tools", "Makefile", "Snakefile"} & set(ignored)
