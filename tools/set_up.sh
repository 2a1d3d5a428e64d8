#!/usr/bin/env bash
# Make .venv, the locked environment, from nothing: a Python that fits, uv beside the project, then every locked package.
#
# PYTHON       the interpreter to use; empty: that of .venv, the first that tools/pythons.sh finds, or one that uv downloads
# UV           the uv to use, .bootstrap/bin/uv by default; it is installed there when it is missing
# UV_VERSION   the version of uv to install
# PADDLE       Paddle's build: cpu, the name of a folder of its index (cu126, cu129), or auto: what the driver serves
# PADDLE_INDEX the address of Paddle's index, without that folder; a mirror's, for example
# ADD_GROUPS   dependency groups of pyproject.toml to install beside the default ones
# INDEX        the address of a mirror of PyPI (a simple index); the lock's own addresses where it is empty
# The last four are kept in .bootstrap/kept: once chosen, they hold for every later call. Arguments go to `uv sync`.
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

# ---- what was chosen before, and what is chosen now
KEPT=.bootstrap/kept
kept_paddle="" kept_index="" kept_mirror="" groups=()
if [ -e "$KEPT" ]; then
    while read -r what value; do
        case $what in
            paddle) kept_paddle=$value ;;
            index) kept_index=$value ;;
            mirror) kept_mirror=$value ;;
            group) groups+=("$value") ;;
        esac
    done < "$KEPT"
fi
for group in ${ADD_GROUPS:-}; do
    [[ " ${groups[*]-} " == *" $group "* ]] || groups+=("$group")
done
PADDLE=${PADDLE:-${kept_paddle:-cpu}}
INDEX=${INDEX:-$kept_mirror}
case $INDEX in
    "") ;;
    http://* | https://*) export UV_DEFAULT_INDEX=$INDEX PIP_INDEX_URL=$INDEX ;;
    *) say "INDEX must be the address of a package index, such as https://pypi.tuna.tsinghua.edu.cn/simple, and is $INDEX."; exit 1 ;;
esac
PADDLE_INDEX=${PADDLE_INDEX:-${kept_index:-https://www.paddlepaddle.org.cn/packages/stable}}

if [ "$PADDLE" = auto ]; then
    driver=$(nvidia-smi --query-gpu=driver_version --format=csv,noheader 2> /dev/null) || driver=""
    driver=${driver%%$'\n'*}
    if [[ ! $driver =~ ^([0-9]+)\.([0-9]+) ]]; then
        say "nvidia-smi says no driver's version, so that Paddle's build cannot be chosen from it. Name one: make gpu PADDLE=cu126 (or cu129)."
        exit 1
    fi
    number=$((10#${BASH_REMATCH[1]} * 1000 + 10#${BASH_REMATCH[2]}))
    if [ "$number" -ge 575000 ]; then
        PADDLE=cu129
    elif [ "$number" -ge 525060 ]; then
        PADDLE=cu126
    else
        say "Driver $driver is too old for Paddle's builds, which need 525.60 or newer: update the driver (docs/gpu.md)."
        exit 1
    fi
    say "Driver $driver: Paddle's build for $PADDLE."
fi

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
sync() {
    if [ -n "$INDEX" ]; then
        sync_from_mirror "$@"
    else
        UV_PYTHON_DOWNLOADS=never "$UV" sync --frozen --compile-bytecode --python "$(command -v "$PYTHON")" "$@"
    fi
}

# `uv sync` fetches from the addresses that the lock holds, whatever index it is told. So the lock's versions and checksums are
# written as requirements, which know no addresses, and the mirror's files must have those checksums.
sync_from_mirror() {
    local requirements=.bootstrap/requirements.txt whole=sync project=1 export=()
    while [ $# -gt 0 ]; do
        case $1 in
            --inexact) whole=install ;;
            --no-install-project) project="" ;;
            --no-install-package) export+=(--no-emit-package "$2"); shift ;;
            *) export+=("$1") ;;
        esac
        shift
    done
    if [ "$(version_of .venv/bin/python)" != "$(version_of "$PYTHON")" ]; then
        "$UV" venv --quiet --clear --python "$(command -v "$PYTHON")" .venv
    fi
    mkdir -p .bootstrap
    "$UV" export --quiet --frozen --no-emit-project ${export[@]+"${export[@]}"} --output-file "$requirements" > /dev/null
    if [ "$whole" = sync ]; then
        pip sync --require-hashes --compile-bytecode "$requirements"
    else
        pip install --require-hashes --compile-bytecode --requirements "$requirements"
    fi
    if [ -n "$project" ] && grep -q '^\[build-system\]' pyproject.toml; then
        pip install --no-deps --editable .
    fi
}

has() {
    .venv/bin/python -c 'import sys; from importlib.metadata import version; version(sys.argv[1])' "$1" 2> /dev/null
}

pip() {
    "$UV" pip "$1" --python .venv/bin/python "${@:2}"
}

options=()
for group in ${groups[@]+"${groups[@]}"}; do options+=(--group "$group"); done
BUILD=.venv/.petrflow-paddle # which GPU build stands in .venv, whole
if [ "$PADDLE" = cpu ]; then
    if [ -e "$BUILD" ]; then
        # Both builds own the folder paddle/: the one that goes must go first.
        pip uninstall paddlepaddle-gpu
        rm -f "$BUILD"
    fi
    sync ${options[@]+"${options[@]}"} "$@"
else
    version=$(sed -n '/^name = "paddlepaddle"$/{n;s/^version = "\(.*\)"$/\1/p;}' uv.lock)
    # Not exact: what Paddle's GPU build brought with it stands in no lock.
    sync --inexact --no-install-package paddlepaddle ${options[@]+"${options[@]}"} "$@"
    if [ "$(cat "$BUILD" 2> /dev/null)" != "$PADDLE $version" ] || ! has paddlepaddle-gpu || has paddlepaddle; then
        echo unfinished > "$BUILD" # also after a kill
        if has paddlepaddle; then pip uninstall paddlepaddle; fi
        pip install --compile-bytecode --reinstall-package paddlepaddle-gpu "paddlepaddle-gpu==$version" \
            --index "$PADDLE_INDEX/$PADDLE/" --index-strategy unsafe-best-match
        echo "$PADDLE $version" > "$BUILD"
    fi
fi
if [ "$PADDLE" != cpu ] || [ ${#groups[@]} -gt 0 ] || [ -n "$INDEX" ] || [ -e "$KEPT" ]; then
    mkdir -p .bootstrap
    {
        echo "paddle $PADDLE"
        echo "index $PADDLE_INDEX"
        [ -z "$INDEX" ] || echo "mirror $INDEX"
        for group in ${groups[@]+"${groups[@]}"}; do echo "group $group"; done
    } > "$KEPT.new"
    mv "$KEPT.new" "$KEPT"
fi
