#!/usr/bin/env bash
# Builds the example's images and pushes them: `BASE=IMAGE build_images.sh REGISTRY/PATH`; prints their names.
# BUILD_OPTIONS are more arguments of `podman build`, PUSH_OPTIONS of `podman push`.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
target=${1:?where the images go: REGISTRY/PATH}
base=${BASE:?an image with Ray}
read -ra build_options <<<"${BUILD_OPTIONS:-}"
read -ra push_options <<<"${PUSH_OPTIONS:-}"

build() { # build NAME PACKAGE…
  local name=$1 image=$target/$1:1
  shift
  podman build --quiet "${build_options[@]}" --build-arg "BASE=$base" --build-arg "NAME=$name" \
    --build-arg "PACKAGES=$*" --tag "$image" --file "$here/Containerfile" "$here" >/dev/null
  podman push --quiet "${push_options[@]}" "$image"
  echo "$image"
}

# Two versions that no single environment can have.
build old humanize==3.14.0
build new humanize==4.9.0
