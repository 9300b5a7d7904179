#!/usr/bin/env bash
# Debian packages for commands that are missing: `debian.sh COMMAND=PACKAGE…`.
# Root on a machine with apt-get: installs them. Anybody else: says which, exit 1.
set -euo pipefail

packages=()
for pair in "$@"; do
  command -v "${pair%%=*}" >/dev/null || packages+=("${pair#*=}")
done
[ ${#packages[@]} -gt 0 ] || exit 0

if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
  echo "Installing Debian packages: ${packages[*]}"
  export DEBIAN_FRONTEND=noninteractive
  # Programs are wanted, not the services that come with some of them (a registry's on all addresses, podman's).
  if [ ! -e /usr/sbin/policy-rc.d ]; then
    trap 'rm -f /usr/sbin/policy-rc.d' EXIT
    printf '#!/bin/sh\nexit 101\n' >/usr/sbin/policy-rc.d
    chmod +x /usr/sbin/policy-rc.d
  fi
  apt-get install -y -qq --no-install-recommends "${packages[@]}" </dev/null >/dev/null 2>&1 && exit 0
  # The package lists of a fresh machine are empty or old.
  apt-get update -qq </dev/null
  apt-get install -y -qq --no-install-recommends "${packages[@]}" </dev/null >/dev/null
else
  echo "Missing: ${packages[*]} (Debian's names). Install them, for instance:" >&2
  echo "  sudo apt-get install --no-install-recommends ${packages[*]}" >&2
  exit 1
fi
