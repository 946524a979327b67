# Shared by the conformance scripts: sourced, not run.
#
# Environment: IOLENS       the binary under test (default: the release build of this repository)
#              IOLENS_OPTS  more options for `iolens mount`, split at blanks (e.g. "--policy off")
#              WORK_PARENT  where the scratch directory is made (default: /var/tmp; a local filesystem)

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
here=$root/tools/conformance
target_dir=${CARGO_TARGET_DIR:-$root/target}
cache=$target_dir/conformance
IOLENS=${IOLENS:-$target_dir/release/iolens}
IOLENS=$(realpath -m "$IOLENS")

die() { echo "${0##*/}: $*" >&2; exit 1; }

# The users of the tests walk through the scratch directory, so it is open to all.
make_work() {
    work=$(mktemp -d "${WORK_PARENT:-/var/tmp}/iolens-${0##*/}.XXXXXX") || die "no scratch directory"
    chmod 755 "$work"
    trap end_work EXIT
    trap 'exit 130' INT
    trap 'exit 143' TERM
}

mounted() { grep -qF " $1 " /proc/self/mountinfo; }

# What goes wrong must not leave a mount behind.
end_work() {
    local mp
    for mp in "$work"/*; do
        if mounted "$mp"; then
            echo "${0##*/}: $mp was still mounted; detached" >&2
            timeout 20 umount -l "$mp"
        fi
    done
    if [ -n "${KEEP:-}" ]; then echo "kept: $work"; else rm -rf --one-file-system "$work"; fi
}

# need_tool CRATE VERSION: installs the crate's binary once and sets `tool`.
need_tool() {
    tool=$cache/tools/bin/$1
    [ -x "$tool" ] && return
    echo "installing $1 $2 from crates.io"
    mkdir -p "$cache"
    cargo install --quiet --locked --root "$cache/tools" --version "$2" "$1" || die "cargo install $1 failed"
}

need_iolens() { [ -x "$IOLENS" ] || die "no iolens at $IOLENS: cargo build --release, or set IOLENS"; }

# mount_view NAME OPTS: mounts $work/NAME.source at $work/NAME.mnt, traced in $work/NAME.jsonl.
mount_view() {
    source_dir=$work/$1.source view=$work/$1.mnt trace=$work/$1.jsonl
    mkdir -p "$source_dir" "$view"
    # shellcheck disable=SC2086 # IOLENS_OPTS is split on purpose
    timeout 30 "$IOLENS" mount ${IOLENS_OPTS:-} -t "$trace" ${2:+-o "$2"} "$source_dir" "$view" ||
        { echo "iolens mount failed with $?"; return 1; }
    mounted "$view" || { echo "iolens mount returned, but nothing is mounted"; return 1; }
}

# Unmounts the last view, then proves that nothing is left and that the trace obeys its laws.
unmount_view() {
    timeout 60 "$IOLENS" unmount "$view" || { echo "iolens unmount failed with $?"; return 1; }
    ! mounted "$view" || { echo "still mounted after iolens unmount"; return 1; }
    timeout 300 "$IOLENS" audit "$trace" > "$work/audit.out" 2>&1 ||
        { echo "iolens audit failed with $?:"; tail -n 20 "$work/audit.out"; return 1; }
}
