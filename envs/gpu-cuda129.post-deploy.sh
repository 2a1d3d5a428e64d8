#!/usr/bin/env bash
# What pip cannot resolve beside the rest; see tools/conda_environments.py.
set -euo pipefail
python -m pip install --no-deps nuscenes-devkit==1.2.0 paddle3d==1.0.0 paddleseg==2.8.0 visualdl==2.5.3
