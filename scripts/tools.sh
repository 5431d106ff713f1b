# Where the project's own tools are, and which versions it wants. Sourced by the other scripts.

project="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
tools="$project/.tools"
kubernetes_version=v1.34.4

# Prints "1.40.0" for an Envoy binary, nothing when it does not run.
envoy_version() {
  "$1" --version 2>/dev/null | sed -n 's|.*version: [0-9a-f]*/\([0-9.]*\).*|\1|p'
}

# Prints the Envoy of a minor version (1.40, 1.38): the person's own first, then the project's.
find_envoy() {
  local minor=$1 candidate
  for candidate in "${ENVOY:-}" "$(command -v envoy || true)" "$tools/bin/envoy-$minor"; do
    if [ -n "$candidate" ] && [ -x "$candidate" ]; then
      case "$(envoy_version "$candidate")" in "$minor".*) printf '%s\n' "$candidate"; return 0 ;; esac
    fi
  done
  return 1
}

# Prints the Prometheus to test with, which has promtool beside it: the person's own first, then the project's.
find_prometheus() {
  local candidate
  for candidate in "${PROMETHEUS:-}" "$(command -v prometheus || true)" "$tools/prometheus/prometheus"; do
    [ -n "$candidate" ] && [ -x "$(dirname "$candidate")/promtool" ] && "$candidate" --version >/dev/null 2>&1 || continue
    printf '%s\n' "$candidate"; return 0
  done
  return 1
}

# Prints the redis-server to test with: the machine's own first, then the project's.
find_redis() {
  local candidate
  for candidate in "$(command -v redis-server || true)" "$tools/redis/bin/redis-server"; do
    [ -n "$candidate" ] && "$candidate" --version >/dev/null 2>&1 || continue
    printf '%s\n' "$candidate"; return 0
  done
  return 1
}

# Prints where the programs of scripts/go-tools/<name> are, or go when they are built.
go_tools_folder() {
  local sum
  sum=$(sha256sum "$project/scripts/go-tools/$1/go.sum")
  printf '%s\n' "$tools/go/$1-${sum:0:16}"
}

# Prints a Go that is new enough: the person's own first, then the project's.
find_go() {
  local candidate version
  for candidate in "$(command -v go || true)" /usr/local/go/bin/go "$tools"/go-toolchain/lib/python3*/site-packages/go/bin/go; do
    [ -n "$candidate" ] && [ -x "$candidate" ] || continue
    version=$(GOTOOLCHAIN=local "$candidate" env GOVERSION 2>/dev/null) || continue
    version=${version#go1.}
    version=${version%%[!0-9]*}
    if [ "${version:-0}" -ge 26 ]; then printf '%s\n' "$candidate"; return 0; fi
  done
  return 1
}
