#!/usr/bin/env bash
# run.sh COMMAND [ARGS...]
# Runs COMMAND in the workspace's folder inside a Debian system of its own, that has Rust, compiles for aarch64 and runs what it
# compiled: programs for aarch64 start like any other, under QEMU (also those that a test starts).
#
#   --prepare           only makes that system (debootstrap; needs root and 3 GB; a few minutes)
#   HSG_AARCH64=FOLDER  where it is (default: .deps/aarch64)
#
# Crates come from this machine's cargo (cargo fetch), what is compiled goes to target/aarch64 (CARGO_TARGET_DIR/aarch64).
# Needs: debootstrap to make it, afterwards Linux 6.7 or newer with binfmt_misc and user namespaces; nothing outside the folder
# changes. Exits as COMMAND does; 126: something is missing.
set -euo pipefail
die() { echo "run.sh: $*" >&2; exit 126; }
here=$(cd "$(dirname "$0")" && pwd)
workspace=$(cd "$here/../.." && pwd)
system=${HSG_AARCH64:-$workspace/.deps/aarch64}
# The release that has Rust for another architecture beside its own, new enough for the workspace.
suite=forky
mirror=http://deb.debian.org/debian
packages=(rustc cargo libstd-rust-dev:arm64 libstdc++6:arm64 g++-aarch64-linux-gnu gcc libc6-dev qemu-user git)

prepare() {
  [ "$(uname -m)" = x86_64 ] || die "this makes aarch64 programs on x86-64; on aarch64 use cargo test"
  [ -e "$system/prepared" ] && return
  [ "$(id -u)" = 0 ] || die "making the Debian system in $system needs root: sudo $here/run.sh --prepare"
  PATH=$PATH:/usr/sbin
  command -v debootstrap >/dev/null || die "debootstrap is missing: apt-get install debootstrap"
  local script=/usr/share/debootstrap/scripts/$suite
  [ -e "$script" ] || script=/usr/share/debootstrap/scripts/sid  # older than the release, the same script
  echo "making a Debian $suite in $system, once" >&2
  rm -rf "$system.tmp"
  mkdir -p "$(dirname "$system")"
  debootstrap --variant=minbase --include=ca-certificates "$suite" "$system.tmp" "$mirror" "$script" >&2
  cp /etc/resolv.conf "$system.tmp/etc/resolv.conf"
  # A stored copy of the archive is past its date; its signature is checked all the same.
  echo 'Acquire::Check-Valid-Until "false";' >"$system.tmp/etc/apt/apt.conf.d/90stored"
  inside() { chroot "$system.tmp" env DEBIAN_FRONTEND=noninteractive "$@" >&2; }
  inside dpkg --add-architecture arm64
  inside apt-get update
  inside apt-get install -y --no-install-recommends "${packages[@]}"
  inside apt-get clean
  mkdir -p "$system.tmp"/{hsg,target,golden,data,root/.cargo/registry,binfmt}
  touch "$system.tmp/prepared"
  # By one rename, so that what is there is whole.
  rm -rf "$system"
  mv "$system.tmp" "$system"
}

prepare
[ "${1-}" = --prepare ] && exit
[ $# -gt 0 ] || die "a command is expected"
(cd "$workspace" && cargo fetch --locked --quiet) || die "the crates cannot be fetched: cargo fetch"
registry=${CARGO_HOME:-$HOME/.cargo}/registry
target=${CARGO_TARGET_DIR:-$workspace/target}/aarch64
mkdir -p "$target"
beside() { if [ -d "${!1-}" ]; then (cd "${!1}" && pwd -P); elif [ -d "$workspace/../shared/$2" ]; then (cd "$workspace/../shared/$2" && pwd -P); fi; }
golden=$(beside HSG_GOLDEN golden)
data=$(beside HSG_DATA data)
export workspace system registry target golden data
# In a user namespace of its own, where a kind of program can be registered without changing this machine.
exec unshare --user --map-root-user --mount bash -c '
  set -eu
  mount --bind "$workspace" "$system/hsg"
  mount --bind "$target" "$system/target"
  mount --bind "$registry" "$system/root/.cargo/registry"
  mount -o remount,bind,ro "$system/root/.cargo/registry"
  mount --rbind /proc "$system/proc"
  mount --rbind /dev "$system/dev"
  seen=()
  for name in golden data; do
    if [ -n "${!name}" ]; then
      mount --bind "${!name}" "$system/$name"
      seen+=("HSG_${name^^}=/$name")
    fi
  done
  mount -t binfmt_misc binfmt_misc "$system/binfmt" || { echo "run.sh: binfmt_misc cannot be mounted: Linux 6.7 or newer is needed" >&2; exit 126; }
  echo ":aarch64:M::\\x7fELF\\x02\\x01\\x01\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x02\\x00\\xb7\\x00:\\xff\\xff\\xff\\xff\\xff\\xff\\xff\\x00\\xff\\xff\\xff\\xff\\xff\\xff\\xff\\xff\\xfe\\xff\\xff\\xff:/usr/bin/qemu-aarch64:P" >"$system/binfmt/register"
  exec chroot "$system" env -i HOME=/root PATH=/usr/bin:/bin:/usr/sbin:/sbin LANG=C.UTF-8 TERM=dumb \
    CARGO_NET_OFFLINE=true CARGO_TARGET_DIR=/target CARGO_BUILD_TARGET=aarch64-unknown-linux-gnu \
    CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=aarch64-linux-gnu-gcc CXX=aarch64-linux-gnu-g++ CC=aarch64-linux-gnu-gcc \
    HOST_CC=gcc HSG_TEST_PROGRAMS=/target/aarch64-unknown-linux-gnu/release PROPTEST_RNG_SEED="${PROPTEST_RNG_SEED:-1}" "${seen[@]}" \
    bash -c "cd /hsg && exec \"\$@\"" - "$@"
' - "$@"
