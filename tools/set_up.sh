#!/usr/bin/env bash
# Make .venv, the locked environment, from nothing: a Python that fits, uv beside the project, then every locked package.
#
# PYTHON       the interpreter to use; empty: that of .venv, the first that tools/pythons.sh finds, or one that uv downloads
# UV           the uv to use, .bootstrap/bin/uv by default; it is installed there when it is missing
# UV_VERSION   the version of uv to install
# Arguments go to `uv sync`.
set -euo pipefail
cd "$(dirname "$0")/.."

PYTHON=${PYTHON:-}
UV=${UV:-.bootstrap/bin/uv}
UV_VERSION=${UV_VERSION:-0.13.9}
NEEDS="petrflow needs Python 3.11, 3.12 or 3.13"
REMEDY="Install one (Debian and Ubuntu: sudo apt install python3 python3-venv) or name one: make PYTHON=/path/to/python3.12"

say() {
    echo "$*" >&2
}

version_of() {
    "$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2> /dev/null < /dev/null
}

install_uv() {
    # Any Python 3 with venv and pip can install uv, also one that is too old or too new for petrflow itself.
    local candidate
    while IFS= read -r candidate; do
        if "$candidate" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 8))' 2> /dev/null < /dev/null; then
            "$candidate" -m venv .bootstrap
            .bootstrap/bin/python -m pip install --quiet --disable-pip-version-check "uv==$UV_VERSION"
            return
        fi
    done < <([ -z "$PYTHON" ] || echo "$PYTHON"; type -aP python3 python)
    if command -v uv > /dev/null; then
        mkdir -p "$(dirname "$UV")"
        ln -sf "$(command -v uv)" "$UV"
        return
    fi
    say "No Python with venv and pip was found to install uv with. $REMEDY"
    exit 1
}

FOUND=$(tools/pythons.sh)
if [ -n "$PYTHON" ]; then
    [ -z "$FOUND" ] || REMEDY="These fit: ${FOUND//$'\n'/, }. Name one of them (make PYTHON=PATH), or none."
    case "$(version_of "$PYTHON")" in
        3.11 | 3.12 | 3.13) ;;
        "") say "$NEEDS, and $PYTHON does not start. $REMEDY"; exit 1 ;;
        *) say "$NEEDS, and $PYTHON is Python $(version_of "$PYTHON"). $REMEDY"; exit 1 ;;
    esac
else
    # The Python that .venv was made with stays, so that naming one once is enough.
    PYTHON=$(.venv/bin/python -c 'import sys; print(sys._base_executable)' 2> /dev/null) || PYTHON=""
    case "$(version_of "$PYTHON")" in
        3.11 | 3.12 | 3.13) ;;
        *) PYTHON=${FOUND%%$'\n'*} ;;
    esac
fi

[ -x "$UV" ] || install_uv

if [ -z "$PYTHON" ]; then
    say "No Python 3.11, 3.12 or 3.13 was found here: uv downloads one."
    if ! "$UV" python install 3.12; then
        say "$NEEDS; none was found, and uv could not download one (its message is above). $REMEDY"
        exit 1
    fi
    PYTHON=$("$UV" python find --managed-python 3.12)
fi

# Compiled once here, or again in every process where PYTHONDONTWRITEBYTECODE is set.
UV_PYTHON_DOWNLOADS=never "$UV" sync --frozen --compile-bytecode --python "$(command -v "$PYTHON")" "$@"
