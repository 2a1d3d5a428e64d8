#!/usr/bin/env bash
# Run the tests on every Python that fits, each in a locked environment of its own under .bootstrap/pythons.
#
# Arguments go to pytest: tools/test_pythons.sh tests/unit/test_config.py
set -uo pipefail
cd "$(dirname "$0")/.."

summary=()
worst=0
while IFS= read -r python; do
    version=$("$python" -c 'import platform; print(platform.python_version())')
    environment=$PWD/.bootstrap/pythons/${version%.*}
    began=$SECONDS
    if ! UV_PROJECT_ENVIRONMENT="$environment" UV_PYTHON_DOWNLOADS=never \
        "$UV" sync --quiet --frozen --compile-bytecode --python "$python"; then
        summary+=("Python $version: its environment could not be made")
        worst=1
        continue
    fi
    ready=$SECONDS
    PATH="$environment/bin:$PATH" "$environment/bin/python" -m pytest "$@" < /dev/null
    status=$?
    [ $status = 0 ] || worst=1
    verdict=passed
    [ $status = 0 ] || verdict="failed (pytest ended with $status)"
    summary+=("Python $version: $verdict, set up in $((ready - began)) s, tested in $((SECONDS - ready)) s")
done < <(tools/pythons.sh)

[ ${#summary[@]} -gt 0 ] || { echo "tools/pythons.sh found no Python that petrflow runs on." >&2; exit 1; }
printf '%s\n' "${summary[@]}"
exit $worst
