# Shared by all scripts: what a machine must have, and words for what goes on.
# shellcheck shell=bash

section() { printf '\n=== %s\n' "$*"; }

note() { printf '%s\n' "$*"; }

die() {
    printf '\nFAILED: %s\n' "$*" >&2
    exit 1
}

is_root() { [ "$(id -u)" = 0 ]; }

# Runs a command as root, by sudo where that asks no password.
as_root() {
    if is_root; then "$@"; else sudo -n "$@"; fi
}

may_become_root() { is_root || sudo -n true 2>/dev/null; }

# need PROGRAM:PACKAGE… installs the packages of programs that are missing, or says how to.
need() {
    local pair missing=()
    for pair in "$@"; do
        PATH=$PATH:/usr/sbin:/sbin command -v "${pair%%:*}" >/dev/null || missing+=("${pair#*:}")
    done
    [ ${#missing[@]} = 0 ] && return
    command -v apt-get >/dev/null ||
        die "install these (named as in Debian), then run this again: ${missing[*]}"
    may_become_root || die "run this first: sudo apt-get install ${missing[*]}"
    note "installing ${missing[*]}"
    as_root apt-get update -qq
    as_root env DEBIAN_FRONTEND=noninteractive \
        apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
}

need_rust() {
    command -v cargo >/dev/null || PATH=$PATH:${CARGO_HOME:-$HOME/.cargo}/bin
    command -v cargo >/dev/null || die "no Rust toolchain: see https://rustup.rs"
    # Rust links by the C compiler's driver.
    need cc:gcc cc:libc6-dev
}

# need_component NAME COMMAND…: a part of the toolchain that may not be installed.
need_component() {
    local name=$1
    shift
    "$@" >/dev/null 2>&1 && return
    command -v rustup >/dev/null ||
        die "the toolchain lacks $name: install it (rustup component add $name)"
    rustup component add "$name"
}

# FUSE's device, and open to everybody, as udev sets it up.
need_dev_fuse() {
    [ -e /dev/fuse ] || as_root modprobe fuse 2>/dev/null || true
    [ -c /dev/fuse ] ||
        die "there is no /dev/fuse: load the module (modprobe fuse), or give the container the
device and the right to mount (docker run --device /dev/fuse --cap-add SYS_ADMIN …)"
    local mode
    mode=$(stat -c %a /dev/fuse)
    [ "$mode" = 666 ] && return
    if is_root; then
        note "/dev/fuse has mode $mode: chmod 0666 /dev/fuse, as udev does"
        chmod 0666 /dev/fuse
    elif ! [ -r /dev/fuse ] || ! [ -w /dev/fuse ]; then
        die "/dev/fuse has mode $mode: run sudo chmod 0666 /dev/fuse, as udev does"
    fi
}

# Every mount point beneath a folder, the last made first.
mounts_beneath() {
    awk -v folder="$1/" 'index($5, folder) == 1 { print $5 }' /proc/self/mountinfo | tac
}

# Unmounts whatever is mounted beneath a folder, dead or alive.
unmount_all_beneath() {
    local place
    for place in $(mounts_beneath "$1"); do
        umount -l "$place" 2>/dev/null || fusermount3 -uz "$place" || true
    done
}

# Processes that run a program out of one of the folders, one `PID PATH` a line.
processes_out_of() {
    local folder exe
    for exe in /proc/[0-9]*/exe; do
        local path
        path=$(readlink "$exe" 2>/dev/null) || continue
        for folder in "$@"; do
            case $path in "$folder"/*) echo "$(basename "$(dirname "$exe")") $path" ;; esac
        done
    done
}
