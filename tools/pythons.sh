#!/usr/bin/env bash
# Print the Pythons that petrflow runs on: one path for each version found, in the order 3.11, 3.12, 3.13.
#
# An interpreter counts when it starts and says its own version: a pyenv shim of a version that is not active is on PATH and fails.
# Looked at: PATH (all hits of a name), then pyenv's versions, then those that uv has installed.
set -uo pipefail

shopt -s nullglob
HOME=${HOME:-/nonexistent} # cron and containers may set none
says_version='import sys; print("%d.%d" % sys.version_info[:2])'

for version in 3.11 3.12 3.13; do
    candidates=()
    while IFS= read -r path; do candidates+=("$path"); done < <(type -aP "python$version" python3 python)
    candidates+=("${PYENV_ROOT:-$HOME/.pyenv}/versions/$version".*/bin/"python$version")
    candidates+=("${UV_PYTHON_INSTALL_DIR:-${XDG_DATA_HOME:-$HOME/.local/share}/uv/python}/cpython-$version".*/bin/"python$version")
    for candidate in ${candidates[@]+"${candidates[@]}"}; do
        if [ "$("$candidate" -c "$says_version" 2> /dev/null < /dev/null)" = "$version" ]; then
            echo "$candidate"
            break
        fi
    done
done
