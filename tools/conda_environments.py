"""Write the conda environments under envs/ from uv.lock: the same versions everywhere, with
Paddle's build as the only difference.

python tools/conda_environments.py [--check]
"""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path

from packaging.markers import Marker

REPOSITORY = Path(__file__).resolve().parents[1]
PADDLE_INDEX = "https://www.paddlepaddle.org.cn/packages/stable"
PYTHON = "3.11"
"""Of the conda environments; every locked package has a build for it, ONNX converters included."""
BUILDS = {
    "cpu": ("a CPU", None),
    "gpu-cuda126": ("an NVIDIA GPU whose driver serves CUDA 12.6", "cu126"),
    "gpu-cuda129": ("an NVIDIA GPU whose driver serves CUDA 12.9", "cu129"),
}
# Their own requirements contradict what is installed beside them (pillow, numpy, OpenCV) or cannot
# be built (sklearn, through paddledet); nothing that petrflow uses of them needs those.
WITHOUT_DEPENDENCIES = ("nuscenes-devkit", "paddle3d", "paddleseg", "visualdl")


def locked() -> dict[str, str]:
    """Return names and versions of everything that petrflow needs on Linux with conda's Python,
    from uv.lock.
    """
    with (REPOSITORY / "uv.lock").open("rb") as file:
        packages = {package["name"]: package for package in tomllib.load(file)["package"]}
    machine = {"sys_platform": "linux", "platform_system": "Linux", "platform_machine": "x86_64", "os_name": "posix"}
    environment = {**machine, "python_version": PYTHON, "python_full_version": f"{PYTHON}.0"}
    wanted: set[str] = set()
    queue = ["petrflow"]
    while queue:
        for dependency in packages[queue.pop()].get("dependencies", []):
            name, marker = dependency["name"], dependency.get("marker")
            if name not in wanted and (marker is None or Marker(marker).evaluate(environment)):
                wanted.add(name)
                queue.append(name)
    return {name: packages[name]["version"] for name in sorted(wanted)}


def render(name: str) -> dict[str, str]:
    """Return the files of one environment by name: its YAML and the script that conda runs after
    it.
    """
    machine, folder = BUILDS[name]
    pins = locked()
    last = [f"{package}=={pins.pop(package)}" for package in WITHOUT_DEPENDENCIES if package in pins]
    paddle = pins.pop("paddlepaddle")
    lines = [
        f"# petrflow on {machine}. Made by tools/conda_environments.py from uv.lock; used with `snakemake --sdm conda`."
    ]
    lines += [
        "channels:",
        "  - conda-forge",
        "  - nodefaults",
        "dependencies:",
        f"  - python={PYTHON}",
        "  - pip",
        "  - pip:",
    ]
    if folder is None:
        lines.append(f"    - paddlepaddle=={paddle}")
    else:
        lines += [f"    - --extra-index-url {PADDLE_INDEX}/{folder}/", f"    - paddlepaddle-gpu=={paddle}"]
    lines += [f"    - {package}=={version}" for package, version in pins.items()]
    script = [
        "#!/usr/bin/env bash",
        "# What pip cannot resolve beside the rest; see tools/conda_environments.py.",
        "set -euo pipefail",
        f"python -m pip install --no-deps {' '.join(last)}",
    ]
    return {f"{name}.yaml": "\n".join(lines) + "\n", f"{name}.post-deploy.sh": "\n".join(script) + "\n"}


def main() -> int:
    """Write the files, or with --check say which are out of date."""
    stale = []
    for name in BUILDS:
        for file_name, text in render(name).items():
            path = REPOSITORY / "envs" / file_name
            if not path.exists() or path.read_text(encoding="utf-8") != text:
                stale.append(file_name)
                if "--check" not in sys.argv:
                    path.write_text(text, encoding="utf-8")
    print("\n".join(stale))
    return int(bool(stale) and "--check" in sys.argv)


if __name__ == "__main__":
    sys.exit(main())
