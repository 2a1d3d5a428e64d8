"""Write the conda environments under envs/ from uv.lock: the same versions everywhere, with Paddle's build as the only difference.

python workflow/environments.py [--check]
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
PADDLE_INDEX = "https://www.paddlepaddle.org.cn/packages/stable"
BUILDS = {
    "cpu": ("a CPU", None),
    "gpu-cuda126": ("an NVIDIA GPU whose driver serves CUDA 12.6", "cu126"),
    "gpu-cuda129": ("an NVIDIA GPU whose driver serves CUDA 12.9", "cu129"),
}
# Their own requirements contradict what is installed beside them (pillow, numpy, OpenCV) or cannot be built (sklearn, through paddledet);
# nothing that petrflow uses of them needs those.
WITHOUT_DEPENDENCIES = ("nuscenes-devkit", "paddle3d", "paddleseg", "visualdl")


def locked() -> dict[str, str]:
    """Names and versions of everything that the default environment holds on Linux, from uv.lock."""
    text = (REPOSITORY / "uv.lock").read_text(encoding="utf-8")
    versions = dict(re.findall(r'\[\[package\]\]\nname = "([^"]+)"\nversion = "([^"]+)"', text))
    wanted, queue = set(), ["petrflow"]
    blocks = {block.split('"', 2)[1]: block for block in text.split("[[package]]\nname = ")[1:]}
    while queue:
        block = blocks[queue.pop()]
        section = re.search(r"\ndependencies = \[\n(.*?)\n\]", block, re.DOTALL)
        for name, rest in re.findall(r'\{ name = "([^"]+)"([^\n]*)\}', section[1] if section else ""):
            if "win32'" in rest and "linux" not in rest and "x86_64" not in rest:
                continue
            if name not in wanted:
                wanted.add(name)
                queue.append(name)
    return {name: versions[name] for name in sorted(wanted)}


def render(name: str) -> dict[str, str]:
    """Return the files of one environment by name: its YAML and the script that conda runs after it."""
    machine, folder = BUILDS[name]
    pins = locked()
    last = [f"{package}=={pins.pop(package)}" for package in WITHOUT_DEPENDENCIES if package in pins]
    paddle = pins.pop("paddlepaddle")
    lines = [
        f"# petrflow on {machine}. Made by workflow/environments.py from uv.lock; used with `snakemake --sdm conda`."
    ]
    lines += [
        "channels:",
        "  - conda-forge",
        "  - nodefaults",
        "dependencies:",
        "  - python=3.11",
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
        "# What pip cannot resolve beside the rest; see workflow/environments.py.",
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
