# Do programs in a sandbox see a plyfs that was bound into it? bubblewrap binds mounts recursively, remounts them read-only and
# without setuid, and runs programs in user namespaces.
# shellcheck shell=bash disable=SC2154 # scripts/clients sets $scratch and $plyfs.

need_bubblewrap() { need bwrap:bubblewrap busybox:busybox-static; }

play_bubblewrap() {
    local busy
    busy=$(command -v busybox)
    mkdir -m 700 private
    mkdir -p lower/{bin,dir,proc,dev,tmp} private/{upper,work} mnt
    cp "$busy" lower/bin/busybox
    chroot lower /bin/busybox --install -s /bin
    echo lower | tee lower/dir/file lower/dir/gone >lower/dir/other
    "$plyfs" -o lowerdir=lower,upperdir=private/upper,workdir=private/work mnt

    is "a program's root is the union" \
        "$(bwrap --bind mnt / --proc /proc --dev /dev --unshare-all --die-with-parent /bin/sh -c \
            'rm /dir/gone; echo more >>/dir/file; mkdir /dir/new; mv /dir/other /dir/new/; cat /dir/file; find /dir | sort')" \
        $'lower\nmore\n/dir\n/dir/file\n/dir/new\n/dir/new/other'
    is "and its changes are in the upper" "$(cd private/upper && find . -type f | LC_ALL=C sort | tr '\n' ' ')" \
        "./dir/.wh.gone ./dir/.wh.other ./dir/file ./dir/new/other "
    is "--ro-bind writes nothing" \
        "$(bwrap --ro-bind mnt / --dev /dev --unshare-all /bin/sh -c 'cat /dir/new/other; echo x 2>/dev/null >/dir/file || echo refused')" $'lower\nrefused'
    is "a tmpfs and another part of the union lie over it" \
        "$(bwrap --bind mnt / --tmpfs /tmp --ro-bind mnt/dir/new /dir --dev /dev --unshare-all /bin/sh -c 'echo x >/tmp/x; ls /dir /tmp; echo x 2>/dev/null >/dir/x || echo refused')" \
        $'/dir:\nother\n\n/tmp:\nx\nrefused'
    is "another user in it is held to permissions" \
        "$(chmod 700 mnt/dir; setpriv --reuid nobody --regid nogroup --clear-groups \
            bwrap --bind mnt / --dev /dev --unshare-user --unshare-pid /bin/sh -c 'ls /dir 2>/dev/null || echo refused' 2>&1)" refused
    chmod 755 mnt/dir
    # An ordinary user's own mount, in that user's own sandbox.
    mkdir -m 777 own
    cat >own/play <<'END'
cd "$(dirname "$0")"
mkdir -m 700 upper
mkdir work mnt
# What is copied up keeps its owner, and a user can give nothing away: the lower is his.
cp -r ../lower lower
"$1" -o lowerdir=lower,upperdir=upper,workdir=work mnt
bwrap --bind mnt / --dev /dev --proc /proc --unshare-all /bin/sh -c 'echo mine >/dir/mine; rm /dir/gone; ls /dir'
"$1" umount mnt
find upper -type f | LC_ALL=C sort
END
    if setpriv --reuid nobody --regid nogroup --clear-groups unshare --user true 2>/dev/null; then
        is "an ordinary user's mount in his own sandbox" \
            "$(setpriv --reuid nobody --regid nogroup --clear-groups sh own/play "$plyfs")" \
            $'file\nmine\nother\nupper/dir/.wh.gone\nupper/dir/mine'
    else
        left_out "an ordinary user's sandbox" "this machine lets ordinary users have no user namespace"
    fi

    # A sandbox that goes away in the middle of its work, and one that outlives the mount.
    local n sandboxes=() sandbox
    for n in {1..10}; do
        bwrap --bind mnt / --unshare-all --die-with-parent /bin/sh -c "i=0; while :; do i=\$((i + 1)); echo \$i >/dir/new/$n; mv /dir/new/$n /dir/new/$n.done; done" &
        sandboxes+=($!)
    done
    sleep 0.5
    for sandbox in "${sandboxes[@]}"; do kill -KILL "$sandbox"; wait "$sandbox" 2>/dev/null || true; done
    is "sandboxes that are killed leave whole files" "$(cat mnt/dir/new/*.done | grep -vc '^[0-9][0-9]*$' || true)" 0
    bwrap --bind mnt / --unshare-all /bin/sh -c 'echo there >/dir/there; sleep 1; cat /dir/there' >late &
    sandbox=$!
    until [ -e mnt/dir/there ]; do sleep 0.05; done
    "$plyfs" umount --lazy mnt
    wait "$sandbox"
    is "a sandbox goes on after a lazy unmount" "$(cat late)" there
}
