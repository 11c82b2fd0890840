# What do podman and buildah make of a store whose filesystem is plyfs? The same is played on three stores, whose filesystems are
# plyfs, fuse-overlayfs and the kernel's overlayfs, and what comes of it is compared: trees, layers, archives.
# shellcheck shell=bash disable=SC2016,SC2154 # Commands are expanded when they are run; scripts/clients sets $scratch.

# Each is a RUN, and so a layer; a container that lives does all of them on one upper.
steps=(
    'rm /l/file && rm -r /l/gone && rm /l/link && echo new >/l/new'
    'rm -r /l/again && mkdir -m 711 /l/again && echo new >/l/again/new'
    'mv /l/one /l/two && mv /l/tree /l/moved && mv /l/moved/a/2 /l/moved/b && mv /l/link.d /l/link.e'
    'ln /l/hard/a /l/hard/d && echo more >>/l/hard/b && rm /l/hard/c && ln -s /l/hard/a /l/hard/s'
    # fuse-overlayfs fails here: it goes on without, and the difference shows.
    'chmod 600 /l/fifo || : >/l/fifo.failed'
    'chmod 4711 /l/suid && chmod 1777 /l/closed && chmod 0 /l/zero && chown 12:13 /l/owned && chown -h 14:15 /l/dangling'
    'chown -R 7:8 /l/moved && chmod -R go-w /l/moved && touch -d "2001-02-03 04:05:06" /l/moved/b/3'
    'setcap cap_net_raw+ep /l/capable && setfattr -n user.new -v value /l/new && setfattr -n user.two -v 2 /l/xattr && setfattr -x user.one /l/xattr'
    'mkfifo /l/pipe && mkdir -p /l/deep/er/and/er && dd if=/dev/zero of=/l/sparse bs=1 count=1 seek=1M 2>/dev/null && truncate -s 5 /l/big'
    'dpkg -i /packages/1.deb && echo changed >>/etc/hello.conf && dpkg -i --force-confold /packages/2.deb && { dpkg -V hello || [ $? = 1 ]; }'
    'dpkg -r hello && dpkg --audit'
    'rm -r /l/moved/b && mkdir /l/moved/b && rm -r /l/moved/b && mkdir /l/gone && mv /l/two /l/gone/one'
    'mkdir /l/x && mv /l/x /l/y && mv /l/y/../new /l/y/ && rm -r /l/y && cp -r /l/many /l/copy && rm -r /l/many && mv /l/copy /l/many'
)
# Only names that leave room for a whiteout can be removed from a lower: the longest are made, and looked at.
long='n=$(printf "%0251d" 0) && echo long >/l/$n && mv /l/$n /l/1$n && mv /l/1$n /l/$n && rm /l/$n && echo long >/l/9999$n && mkdir /l/8888$n || : >/l/long.failed'

need_engines() {
    need podman:podman buildah:buildah crun:crun fuse-overlayfs:fuse-overlayfs busybox:busybox-static dpkg-deb:dpkg ldd:libc-bin
}
need_rootful() { need_engines; }
need_rootless() {
    need_engines
    need newuidmap:uidmap useradd:passwd
}

play_rootful() {
    as_user=()
    play_engines
}

play_rootless() {
    as_user=(setpriv --reuid "$player" --regid "$player" --clear-groups env "HOME=$PWD/home" "XDG_RUNTIME_DIR=$run/user")
    mkdir -m 700 "$run/user" home
    chown "$player:" "$run/user" home .
    if ! "${as_user[@]}" unshare --user true 2>/dev/null; then
        left_out rootless "this machine lets ordinary users have no user namespace"
        return
    fi
    play_engines
}

is_rootless() { [ ${#as_user[@]} -gt 0 ]; }

play_engines() {
    local store stores=()
    # crun knows only a machine with one tree of cgroups.
    umount -R /sys/fs/cgroup 2>/dev/null || true
    mount -t cgroup2 none /sys/fs/cgroup || { left_out "$part" "no cgroup2 can be mounted"; return; }
    engines_conf
    make_image
    for store in plyfs fuse-overlayfs overlay; do
        take "$store"
        if ! pod import --quiet base.tar base >log 2>&1; then
            [ "$store" = overlay ] || { cat log; die "podman import on $store"; }
            left_out "$part: the kernel's overlayfs" "$(tail -n 1 log)"
            continue
        fi
        stores+=("$store")
        build_on
        live_on
    done
    compare_stores
    by_records
    take plyfs
    ways_to_run
    many_at_once
    killed_daemon
    by_buildah
    mapped_owners
    pod rm --force --all >log
    nothing_left
}

engines_conf() {
    cat >containers.conf <<CONF
[containers]
netns = "none"
cgroups = "disabled"
seccomp_profile = "unconfined"
log_driver = "k8s-file"
default_ulimits = ["nofile=1024:1024", "nproc=4096:4096"]
[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
runtime = "crun"
CONF
    printf '{"default":[{"type":"insecureAcceptAnything"}]}' >policy.json
    chmod 644 containers.conf policy.json
}

# take STORE: what pod and build work on from now on. A path beneath the run folder is short enough for podman.
take() {
    taken=$1
    at=(--root "$PWD/$1" --runroot "$run/$part/$1" --storage-driver overlay)
    case $1 in
        plyfs) at+=(--storage-opt "overlay.mount_program=$plyfs") ;;
        # All files are the user's own, and records say whose they are: as on a home on NFS.
        records) at+=(--storage-opt "overlay.mount_program=$plyfs" --storage-opt overlay.force_mask=700) ;;
        fuse-overlayfs) at+=(--storage-opt "overlay.mount_program=$(command -v fuse-overlayfs)") ;;
    esac
    mkdir -p "$run/$part"
    ! is_rootless || chown "$player:" "$run/$part"
}

engine() {
    local status=0
    "${as_user[@]}" env CONTAINERS_CONF="$PWD/containers.conf" "$@" 2>engine.log || status=$?
    [ "$status" = 0 ] || tail -n 15 engine.log >&2
    return "$status"
}
pod() { engine podman "${at[@]}" --tmpdir "$run/$part/$taken.tmp" "$@"; }
build() { engine buildah "${at[@]}" "$@"; }
# As the engine sees it: an ordinary user has its subordinate ids only there.
seen() { if is_rootless; then pod unshare "$@"; else "$@"; fi; }
layer_in() { seen bash -c '. "$1"; layer_of "$2"' - "$scripts/trees.sh" "$1"; }

# copy_programs NAME…: programs of this machine, with their libraries, into the image.
copy_programs() {
    local program
    for program; do
        program=$(PATH=$PATH:/sbin:/usr/sbin command -v "$program")
        tar -C / -chf - "${program#/}" $(ldd "$program" 2>/dev/null | grep -o '/[^ ]*' | sed 's#^/##') | tar -C image -xf -
    done
}

# package VERSION FILES: a package that another version replaces.
package() {
    local root=package-$1 n
    mkdir -p "$root"/{DEBIAN,etc,usr/share/hello/dir,usr/bin}
    printf 'Package: hello\nVersion: %s\nArchitecture: all\nMaintainer: nobody <nobody@example.org>\nDescription: a test\n' "$1" >"$root/DEBIAN/control"
    echo /etc/hello.conf >"$root/DEBIAN/conffiles"
    echo "version $1" | tee "$root/etc/hello.conf" "$root/usr/bin/hello" >/dev/null
    for ((n = $1; n < 200; n += $1)); do echo "$1 $n" >"$root/usr/share/hello/dir/$n"; done
    ln -s dir/2 "$root/usr/share/hello/link"
    ln "$root/usr/bin/hello" "$root/usr/bin/hello-$1"
    dpkg-deb --root-owner-group --build "$root" "image/packages/$1.deb" >log
}

make_image() {
    mkdir -p image/{bin,etc,tmp,proc,dev,sys,usr/bin,packages,l/{again/sub,gone/sub,closed,hard,link.d,many,tree/{a,b}},var/lib/dpkg/{info,updates,triggers}}
    chmod 1777 image/tmp
    cp "$(command -v busybox)" image/bin/busybox
    chroot image /bin/busybox --install -s /bin
    # busybox's own shell would run its own dpkg and tar.
    copy_programs dash setfattr getfattr setcap getcap dpkg dpkg-deb dpkg-split dpkg-query tar ldconfig
    ln -sf "$(PATH=/usr/bin:/bin command -v dash)" image/bin/sh
    : >image/etc/hostname; : >image/etc/hosts; : >image/etc/resolv.conf; mkdir image/run
    : >image/var/lib/dpkg/status; : >image/var/lib/dpkg/available
    echo 'root:x:0:0:root:/:/bin/sh' >image/etc/passwd; echo 'root:x:0:' >image/etc/group
    package 1
    package 2
    (
        cd image/l
        echo lower | tee file one gone/file gone/sub/file again/file again/sub/file suid owned zero hard/a link.d/f >/dev/null
        ln hard/a hard/b; ln hard/a hard/c
        ln -s file link; ln -s nowhere dangling; mkfifo -m 640 fifo; cp /bin/true capable; head -c 100000 /dev/zero >big
        echo x >xattr; setfattr -n user.one -v 1 xattr
        chown 1000:1001 owned; chown 33:34 suid; chmod 4755 suid; chmod 700 closed; chown 5:6 closed
        (cd many; seq 500 | xargs -n 1 sh -c 'echo $0 >$0')
        (cd tree; seq 1 3 | xargs -I N sh -c 'echo N >a/N; echo N >b/N'; chmod 666 a/*)
    )
    tar -C image --numeric-owner --xattrs -cf base.tar .
    chmod 644 base.tar
}

# Root's builds run in a chroot: the other way sets limits, for which not every machine's root has the right.
build_on() {
    local step isolation=(--network none)
    is_rootless || isolation=(--isolation chroot --cap-add CAP_MKNOD)
    mkdir -p context
    {
        echo "FROM base"
        printf 'RUN %s\n' "${steps[@]}"
    } >context/Containerfile
    chmod -R a+rX context
    # Made layer by layer, and looked at as a whole in the end.
    build build --signature-policy policy.json "${isolation[@]}" --layers --quiet --tag built context >log || die "buildah build on $taken"
    pod image inspect --format '{{range .RootFS.Layers}}{{println .}}{{end}}' built | grep . | tail -n +2 >layers
    local number=0 digest
    [ "$(wc -l <layers)" = ${#steps[@]} ] || die "the build on $taken has $(wc -l <layers) layers of ${#steps[@]}"
    while read -r digest; do
        number=$((number + 1))
        layer_in "$taken/overlay/$(layer_with "$digest")/diff" >"$taken.layer-$number"
    done <layers
}

# layer_with DIGEST: which folder of the store has the layer that is known by its content. One such may be in a store twice.
layer_with() {
    tr '{' '\n' <"$taken/overlay-layers/layers.json" | sed -n 's/^"id":"\([0-9a-f]*\)".*"diff-digest":"'"$1"'".*/\1/p' | head -n 1
}

live_on() {
    local step all='set -e'
    for step in "${steps[@]}" "$long"; do all+=$'\n'"{ $step; }"; done
    is_rootless || all+=$'\nmknod /l/null c 1 3 && chmod 640 /l/null && chown 3:4 /l/null'
    pod run --cap-add MKNOD,SETFCAP --name live base sh -c "$all" >log 2>&1 || { tail log; die "the container on $taken"; }
    local mounted
    # Its upper is what the filesystem has written itself; the committed layer is what the engine made of what it showed.
    if is_rootless; then
        seen bash -c '. "$1"; shift; layer_of "$("$@" mount live)"' - "$scripts/trees.sh" \
            podman "${at[@]}" --tmpdir "$run/$part/$taken.tmp" >"$taken.merged"
    else
        mounted=$(pod mount live)
        layer_in "$mounted" >"$taken.merged"
        pod unmount live >log
    fi
    layer_in "$(pod inspect --format '{{.GraphDriver.Data.UpperDir}}' live)" >"$taken.upper"
    pod diff live | sort >"$taken.diff"
    pod commit --quiet live committed >log
    layer_in "$taken/overlay/$(layer_with "$(pod image inspect --format '{{range .RootFS.Layers}}{{println .}}{{end}}' committed | grep . | tail -n 1)")/diff" >"$taken.committed"
    pod export --output "$taken.tar" live
    tar -tvf "$taken.tar" --numeric-owner | awk '{ $4 = ""; $5 = ""; print }' | sort >"$taken.export"
    pod push --quiet --signature-policy policy.json committed "oci:$PWD/$taken.oci:committed" >log 2>&1 || { cat log; die "push on $taken"; }
    pod run --rm committed sh -c 'find / -xdev | sort' >"$taken.found"
    pod rm live >log
}

# What differs from what the others give must be known to be their fault.
compare_stores() {
    local what peer
    grep -v '^#' "$scripts/../tests/conformance/clients.faults" >faults
    : >seen-faults
    : >unexplained
    for peer in "${stores[@]:1}"; do
        for what in $(find . -maxdepth 1 -name 'plyfs.*' -printf '%f\n' | grep -v -e '[.]tar$' -e '[.]oci$' -e '[.]tmp$' | sed 's/^plyfs[.]//' | sort -V); do
            [ -s "$peer.$what" ] || [ "$what" = diff ] || die "$peer gives no $what"
            unexplained "$peer" "$what" >>unexplained
        done
    done
    if [ -s unexplained ]; then
        head -n 400 unexplained
        die "what plyfs gives (>) differs from what the others do (<), and that is not known to be their fault"
    fi
    held "${#steps[@]} layers of a build, a container's upper, what it shows, its commit, export and diff: as ${stores[*]:1}"
    sort seen-faults | uniq -c | while read -r count line; do note "      $count × $line"; done
}

# unexplained PEER WHAT: the lines in which plyfs and the peer differ, but for the peer's faults.
unexplained() {
    local line who place pattern reason found
    { diff <(levelled "$1.$2" "plyfs.$2") <(levelled "plyfs.$2" "$1.$2") || true; } | { grep '^[<>]' || true; } | while IFS= read -r line; do
        found=''
        while IFS=$'\t' read -r who place pattern reason; do
            if [[ $1 =~ ^($who)$ && $2 =~ ^($place)$ && $line =~ $pattern ]]; then
                printf '%s: %s\n' "$1" "$reason" >>seen-faults
                found=yes
                break
            fi
        done <faults
        [ -n "$found" ] || printf '%s %s: %s\n' "$1" "$2" "$line"
    done
}

# levelled LIST OTHER: a directory may be opaque, or have whiteouts for all that is below it. Where either list says that it is
# opaque, its whiteouts do not count.
levelled() {
    awk -F '\t' '
        function parent(path) { return sub(/\/[^\/]*$/, "", path) ? path : "." }
        pass < 2 { if ($2 == "opaque") opaque[$1]; next }
        $2 == "opaque" || $2 == "whiteout" && parent($1) in opaque { next }
        { print }' pass=1 "$1" "$2" pass=2 "$1"
}

# The rest is played on plyfs alone.
whose='id -u >/tmp/id; stat -c %u:%g /tmp/id /l/owned; echo more >>/l/file; cat /l/file'

ways_to_run() {
    local volume=$PWD/volume
    mkdir volume
    echo source >volume/file
    chmod -R a+rX volume
    is "a volume :O shows the directory, and what is written to it" \
        "$(pod run --rm -v "$volume:/v:O" base sh -c 'echo more >>/v/file; echo new >/v/new; rm /v/new; cat /v/file')" $'source\nmore'
    is "and leaves it as it was" "$(cat volume/*)" source
    is "--read-only reads, and writes nothing" \
        "$(pod run --rm --read-only base sh -c 'cat /l/file; echo x 2>/dev/null >/l/file || echo refused')" $'lower\nrefused'
    is "--tmpfs and -v lie over the union" \
        "$(pod run --rm --tmpfs /l/closed -v "$volume:/l/many:ro" base sh -c 'ls /l/closed; ls /l/many')" file
    if is_rootless; then
        is "--userns=keep-id: the owners in it are the image's" \
            "$(pod run --rm --userns=keep-id --user 0 base sh -c "$whose")" $'0:0\n1000:1001\nlower\nmore'
        is "and the user is who he is" "$(pod run --rm --userns=keep-id base sh -c 'echo >/tmp/mine; stat -c %u /tmp/mine')" "$(id -u "$player")"
    fi

    pod run --detach --name lives base sh -c 'while :; do sleep 1; done' >log
    is "exec works in a container that lives" "$(pod exec lives sh -c 'mkdir /made && echo yes >/made/it && cat /made/it')" yes
    pod cp lives:/made/it copied
    pod cp base.tar lives:/made/tar
    is "cp works both ways" "$(cat copied) $(pod exec lives sha256sum <base.tar /made/tar | cut -c1-64)" "yes $(sha256sum <base.tar | cut -c1-64)"
    pod restart --time 0 lives >log
    is "a restart keeps what was made" "$(pod exec lives cat /made/it)" yes
    pod rm --force --time 0 lives >log
}

# Podman makes files in the root as itself, whose id is not in the map, before it gives them to the container's root.
mapped_owners() {
    local mapping=0:100000:65536 said
    ! is_rootless || mapping=0:1:60000
    take fuse-overlayfs
    if ! pod run --rm --uidmap "$mapping" base true >log 2>&1; then
        left_out "$part: --uidmap" "it fails on fuse-overlayfs as well: $(tail -n 1 log)"
        take plyfs
        return
    fi
    take plyfs
    said=$(pod run --rm --uidmap "$mapping" base sh -c "$whose") || die "--uidmap works on fuse-overlayfs, not on plyfs"
    is "--uidmap: the owners in it are the image's" "$said" $'0:0\n1000:1001\nlower\nmore'
}

many_at_once() {
    local n players=() player_pid
    for n in {1..20}; do
        pod run --rm base sh -c "echo $n >>/l/big; rm -r /l/tree; mkdir /l/tree; ls -A /l/tree; tail -c 3 /l/big | tr -d '\\0'; cat /l/many/$n" >"many-$n" 2>&1 &
        players+=($!)
    done
    for player_pid in "${players[@]}"; do wait "$player_pid" || die "one of 20 containers failed: $(cat many-*)"; done
    for n in {1..20}; do [ "$(cat "many-$n")" = "$n"$'\n'"$n" ] || die "container $n of 20 says: $(cat "many-$n")"; done
    held "20 containers at once, each with its own upper"
}

# daemon_of CONTAINER: the process that serves its root.
daemon_of() {
    local merged process
    merged=$(pod inspect --format '{{.GraphDriver.Data.MergedDir}}' "$1")
    for process in $(processes_out_of "$scratch/bin" | cut -d ' ' -f 1); do
        ! tr '\0' '\n' <"/proc/$process/cmdline" | grep -qxF -- "$merged" || { echo "$process"; return; }
    done
    die "nobody serves $merged"
}

killed_daemon() {
    pod run --detach --name lives base sh -c 'while :; do sleep 1; done' >log
    pod exec lives sh -c 'echo kept >/l/kept; sync; rm /l/file; echo more >>/l/one'
    kill -KILL "$(daemon_of lives)"
    ! pod exec lives cat /l/kept >log 2>&1 || die "a container without a filesystem answers"
    pod kill lives >log 2>&1 || true
    pod stop --time 0 lives >log 2>&1 || true
    pod start lives >log || die "a container whose daemon was killed does not start again"
    is "after kill -9 of its daemon a container starts again, and has what it had" \
        "$(pod exec lives sh -c 'cat /l/kept /l/one; ls /l/file 2>/dev/null || echo gone')" $'kept\nlower\nmore\ngone'
    pod rm --force --time 0 lives >log
}

# Where records say whose the files are, a container sees and changes the same, and so is what is committed; and on the disk
# everything is the engine's own. With force_mask, containers/storage itself forgets the owners of symbolic links when it takes a
# layer, and before 1.50 suid, sgid and sticky bits as well; and it took no fifo.
by_records() {
    local store step others all='set -e'
    for step in "${steps[@]}"; do [[ $step == *fifo* ]] || all+=$'\n'"{ $step; }"; done
    tar -C image --numeric-owner --xattrs --exclude=./l/fifo -cf records.base.tar .
    chmod 644 records.base.tar
    for store in plyfs records; do
        take "$store"
        pod import --quiet records.base.tar plain >log 2>&1 || { cat log; die "podman import with force_mask"; }
        pod run --cap-add SETFCAP --name plain plain sh -c "$all" >log 2>&1 || { tail log; die "the container on $store"; }
        pod diff plain | sort >"$store.plain"
        pod export --output "$store.plain.tar" plain
        pod commit --quiet plain again >log
        pod rm plain >log
        # And once more, from what was committed.
        pod run --name plain again true
        pod export --output "$store.again.tar" plain
        pod rm plain >log
        for tar in "$store".{plain,again}.tar; do
            tar -tvf "$tar" --numeric-owner | sed -E 's/^(...)s/\1x/; s/^(.{6})s/\1x/; s/^(.{9})t/\1x/' |
                awk -v again="${tar##*again*}" '{ $4 = ""; $5 = ""; if (again == "" && /^l/) $2 = ""; print }' | sort >>"$store.plain"
        done
    done
    diff plyfs.plain records.plain >difference || {
        head -n 20 difference
        die "what a container shows with force_mask (>) is not what it shows without (<)"
    }
    others=$(seen find records/overlay -path '*/diff/*' \( -not -uid 0 -o -type f -perm /7077 -not -name '.wh.*' \) | head -n 3)
    [ -z "$others" ] || die "with force_mask these are not the engine's own alone: $others"
    held "with force_mask, owners and modes in records: the same diff, export and commit"
}

# What buildah mounts is written from the outside, through the mount.
by_buildah() {
    cat >outside <<'END'
set -eu
mnt=$("$@" mount working)
rm -r "$mnt/l/tree"; mkdir "$mnt/l/tree"; echo outside >"$mnt/l/tree/file"; mv "$mnt/l/many" "$mnt/l/lots"
ln "$mnt/l/hard/a" "$mnt/l/hard/e"; echo more >>"$mnt/l/hard/b"; chown 21:22 "$mnt/l/one"
layer_of "$mnt" >outside.before
"$@" umount working >/dev/null
"$@" commit --signature-policy policy.json --quiet working outside >/dev/null
"$@" from --signature-policy policy.json --name again outside >/dev/null
layer_of "$("$@" mount again)" >outside.after
"$@" umount --all >/dev/null
END
    build from --signature-policy policy.json --name working base >log
    seen env CONTAINERS_CONF="$PWD/containers.conf" bash -euo pipefail -c '. "$1"; shift; . ./outside' - "$scripts/trees.sh" buildah "${at[@]}" >log 2>&1 || {
        cat log
        die "buildah mount, commit and from"
    }
    diff outside.before outside.after >difference || { head -n 20 difference; die "what buildah committed is not what it showed"; }
    held "buildah commits what it showed: $(wc -l <outside.after) lines"
    build push --quiet --signature-policy policy.json outside "oci:$PWD/outside.oci:outside" >log 2>&1 || { cat log; die "buildah push"; }
    build rm --all >log
    if ! is_rootless; then
        mkdir mnt
        XDG_DATA_HOME=$PWD/data "$plyfs" image pull oci:outside.oci:outside --name outside >log
        XDG_DATA_HOME=$PWD/data "$plyfs" image mount outside mnt
        layer_of mnt >outside.pulled
        "$plyfs" umount mnt
        diff outside.before outside.pulled >difference || { head -n 20 difference; die "what buildah pushed is not what it showed"; }
        held "plyfs pulls and mounts what buildah pushed"
    fi
}

# No daemon lives longer than its container, and none leaves anything prepared in a workdir.
nothing_left() {
    local left
    left_running
    left=$(find plyfs/overlay -path '*/work/plyfs/*' \( -name stage -o -name volatile \) | head -n 3)
    [ -z "$left" ] || die "left in a workdir: $left"
    held "no daemon runs, nothing is left in a workdir"
}
