#!/usr/bin/env bash
# Creates the virtual environment, keeps it current and puts it on PATH. Every script sources this file; packages are
# installed again only when a file of requirements changed.
#
#   MODALTUNE_VENV          where the environment lives   (default: .venv in the repository)
#   MODALTUNE_PYTHON        interpreter to create it with (default: python3; 3.11 or newer)
#   MODALTUNE_REQUIREMENTS  files of requirements, separated by spaces (default: requirements.txt)
#   MODALTUNE_SKIP_SETUP    1: use the environment that is active now (conda, containers)
set -euo pipefail

REPO_ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"

modaltune_setup_env() {
  local venv="${MODALTUNE_VENV:-$REPO_ROOT/.venv}"
  local python="${MODALTUNE_PYTHON:-python3}"
  local stamp="$venv/requirements.sha256" # a line of sha256sum for every file that is installed
  local files file line changed=0 install=()
  read -r -a files <<<"${MODALTUNE_REQUIREMENTS:-requirements.txt}"
  for file in "${files[@]}"; do
    line="$(cd "$REPO_ROOT" && sha256sum "$file")"
    grep -qxF "$line" "$stamp" 2>/dev/null || changed=1
    install+=(-r "$REPO_ROOT/$file")
  done

  if ((changed)); then
    "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
      echo "setup_env: $python is missing or older than Python 3.11; point MODALTUNE_PYTHON to a newer one" >&2
      return 1
    }
    echo "setup_env: installing ${files[*]} into $venv (2-5 minutes on first use)"
    rm -f "$stamp"
    if command -v uv >/dev/null 2>&1; then
      [[ -x "$venv/bin/python" ]] || uv venv --quiet --python "$python" "$venv"
      uv pip install --quiet --python "$venv/bin/python" "${install[@]}"
    else
      [[ -x "$venv/bin/pip" ]] || "$python" -m venv "$venv"
      "$venv/bin/python" -m pip install --quiet --disable-pip-version-check "${install[@]}"
    fi
    (cd "$REPO_ROOT" && sha256sum "${files[@]}") >"$stamp"
  fi
  export PATH="$venv/bin:$PATH"
}

if [[ "${MODALTUNE_SKIP_SETUP:-0}" != 1 ]]; then
  modaltune_setup_env
fi
