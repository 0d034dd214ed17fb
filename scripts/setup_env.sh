#!/usr/bin/env bash
# Creates the virtual environment from requirements.txt, keeps it current and puts it on PATH.
# Every script sources this file; packages are installed again only when requirements.txt changed.
#
#   MODALTUNE_VENV        where the environment lives   (default: .venv in the repository)
#   MODALTUNE_PYTHON      interpreter to create it with (default: python3; 3.11 or newer)
#   MODALTUNE_SKIP_SETUP  1: use the environment that is active now (conda, containers)
set -euo pipefail

REPO_ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"

modaltune_setup_env() {
  local venv="${MODALTUNE_VENV:-$REPO_ROOT/.venv}"
  local python="${MODALTUNE_PYTHON:-python3}"
  local stamp="$venv/requirements.sha256"
  local wanted
  wanted="$(sha256sum "$REPO_ROOT/requirements.txt" | cut -d' ' -f1)"

  if [[ ! -f "$stamp" || "$(cat "$stamp")" != "$wanted" ]]; then
    "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
      echo "setup_env: $python is missing or older than Python 3.11; point MODALTUNE_PYTHON to a newer one" >&2
      return 1
    }
    echo "setup_env: installing requirements.txt into $venv (2-5 minutes on first use)"
    rm -f "$stamp"
    if command -v uv >/dev/null 2>&1; then
      [[ -x "$venv/bin/python" ]] || uv venv --quiet --python "$python" "$venv"
      uv pip install --quiet --python "$venv/bin/python" -r "$REPO_ROOT/requirements.txt"
    else
      [[ -x "$venv/bin/pip" ]] || "$python" -m venv "$venv"
      "$venv/bin/python" -m pip install --quiet --disable-pip-version-check -r "$REPO_ROOT/requirements.txt"
    fi
    echo "$wanted" >"$stamp"
  fi
  export PATH="$venv/bin:$PATH"
}

if [[ "${MODALTUNE_SKIP_SETUP:-0}" != 1 ]]; then
  modaltune_setup_env
fi
