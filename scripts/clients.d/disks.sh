# Does a union work whose branches are on a disk of an odd kind? Each walk is played on the union and on a plain directory beside it:
# both must show the same, then, after kill -9 of the daemon and after a remount.
# shellcheck shell=bash disable=SC2016,SC2154 # Commands are expanded when they are run; scripts/clients sets $scratch and $plyfs.

# `NEEDS|COMMAND`: a disk that lacks what a command needs must refuse it, and show what it showed. One that is `torn` has no lasting
# names for inodes, so that a copy-up tears hard links apart: they are not played.
disk_steps=(
    '|cat file dir/sub/file >/dev/null && [ -x program ] && [ ! -e none ]'
    '|echo more >>file && echo new >new && mkdir made && echo in >made/in'
    '|rm dir/doomed && rm -r gone && mkdir gone && echo again >gone/file'
    '|mv dir/sub dir/moved && mv new newer && mv made dir/made'
    '|mv dir directory && echo more >>directory/moved/file'
    '|chmod 600 program && truncate -s 1000 big && touch -d "2001-02-03 04:05:06" file'
    '|dd if=/dev/zero of=synced bs=64K count=4 conv=fsync 2>/dev/null && dd if=/dev/zero of=big bs=1 count=10 seek=500 conv=notrunc,fsync 2>/dev/null'
    '|for n in $(seq 100); do echo $n >many.$n; done; rm many.?; ls | sort >/dev/null'
    '|exec 7<doomed; rm doomed; [ "$(cat <&7)" = doomed ]; exec 7<&-'
    'symlinks|ln -s file link.new && rm link && ln -s new link'
    'torn|ln hard.1 hard.3 && echo more >>hard.2 && [ "$(cat hard.3)" = "$(cat hard.2)" ] && rm hard.1'
    'fifos|mkfifo fifo'
    'owners|chown 12:13 file && chown 14 directory'
    'xattrs|setfattr -n user.new -v value newer && setfattr -n user.one -v changed attributes'
)

need_media() { need mkfs.ext4:e2fsprogs mkfs.xfs:xfsprogs losetup:mount mkisofs:genisoimage fuseiso:fuseiso; }
need_squashfs() { need mksquashfs:squashfs-tools squashfuse:squashfuse; }
need_sshfs() { need sshfs:sshfs sshd:openssh-server ssh-keygen:openssh-client; }
# A server is of use only to a client.
need_nfs() { [ -z "$(nfs_client)" ] || need ganesha.nfsd:nfs-ganesha ganesha.nfsd:nfs-ganesha-vfs mount.nfs:nfs-common rpcbind:rpcbind; }

# fill DIR: what a lower holds.
fill() {
    (
        cd "$1"
        mkdir -p dir/sub gone/deep
        echo lower | tee file dir/sub/file dir/doomed gone/file gone/deep/file attributes hard.1 >/dev/null
        echo doomed >doomed
        ln hard.1 hard.2; ln -s file link; cp /bin/true program; head -c 300000 /dev/urandom >big
        setfattr -n user.one -v 1 attributes 2>/dev/null || true
    )
}

# shown DIR [LACKS]: what is in it, for comparison.
shown() {
    local as='s/^system.*//'
    # Where links cannot be kept together, and where no owners are kept, nothing is said of them.
    case " ${2:-} " in *" torn "*) as+=';s/\t[^\t]*$//' ;; esac
    case " ${2:-} " in *" owners "*) as+=';s/\t[0-9]*:[0-9]*\t/\t-\t/' ;; esac
    case " ${2:-} " in *" xattrs "*) as+=';/\tuser[.]/d' ;; esac
    layer_of "$1" | sed "$as"
}

# alike WHAT DIR DIR LACKS
alike() {
    shown "$2" "$4" >one.tree
    shown "$3" "$4" >two.tree
    diff one.tree two.tree >difference || { head -n 20 difference; die "$1: it shows (>) something else than a plain directory does (<)"; }
}

# walk NAME LOWER UPPER LACKS: upper and workdir are made in the directory UPPER.
walk() {
    local name=$1 lower=$2 upper=$3 lacks=$4 at=$PWD/walk step needs before
    local options=lowerdir=$lower,upperdir=$upper/upper,workdir=$upper/work
    mkdir -p "$at"/{plain,mnt}
    mkdir "$upper/upper" "$upper/work"
    cp -a "$lower/." "$at/plain"
    "$plyfs" -o "$options" "$at/mnt" 2>said || { cat said; die "$name: cannot be mounted"; }
    alike "$name: at first" "$at/plain" "$at/mnt" "$lacks"
    for step in "${disk_steps[@]}"; do
        needs=${step%%|*}
        case " $lacks " in
            *" torn "*) [ "$needs" != torn ] || continue ;;&
            *" ${needs:-nothing} "*)
                before=$(shown "$at/mnt" "$lacks")
                ! (cd "$at/mnt" && bash -c "${step#*|}") >said 2>&1 || die "$name keeps no $needs, and yet does: ${step#*|}"
                [ "$(shown "$at/mnt" "$lacks")" = "$before" ] || die "$name refuses ${step#*|}, and shows something else after it"
                ;;
            *)
                (cd "$at/plain" && bash -c "${step#*|}") || die "on the disk itself: ${step#*|}"
                (cd "$at/mnt" && bash -c "${step#*|}") || die "$name: ${step#*|}"
                alike "$name: ${step#*|}" "$at/plain" "$at/mnt" "$lacks"
                ;;
        esac
    done
    kill -KILL "$(daemon_on "$at/mnt")"
    "$plyfs" umount "$at/mnt" 2>/dev/null || umount -l "$at/mnt"
    "$plyfs" -o "$options" "$at/mnt" 2>said || { cat said; die "$name: cannot be mounted after kill -9"; }
    alike "$name: after kill -9" "$at/plain" "$at/mnt" "$lacks"
    "$plyfs" umount "$at/mnt"
    "$plyfs" -o "$options" "$at/mnt" 2>said || { cat said; die "$name: cannot be mounted again"; }
    alike "$name: mounted again" "$at/plain" "$at/mnt" "$lacks"
    "$plyfs" umount "$at/mnt"
    [ ! -e "$upper/work/plyfs/stage" ] || die "$name: something stays staged"
    rm -rf "$at"
    held "$name${lacks:+ (without ${lacks/torn/links over a copy-up})}"
}

daemon_on() {
    local process
    for process in $(processes_out_of "$scratch/bin" | cut -d ' ' -f 1); do
        ! tr '\0' '\n' <"/proc/$process/cmdline" | grep -qxF -- "$1" || { echo "$process"; return; }
    done
    die "nobody serves $1"
}

# taken_away MOUNTPOINT: whoever has just ended may hold it a moment longer.
taken_away() {
    local patience
    for patience in {1..50}; do
        ! umount "$1" 2>/dev/null || return 0
        sleep 0.1
    done
    die "$1 is in use after $patience attempts to unmount it"
}

# local_upper: a fresh directory on the disk that the scratch folder is on.
local_upper() { mktemp -d "$PWD/upper.XXXXXX"; }

# read_only WHAT LOWER [LACKS [TEXT]]: a lower that cannot be written, and an upper that is refused with this text.
read_only() {
    local at=$PWD/read-only
    walk "$1, lower" "$2" "$(local_upper)" "${3:-}"
    mkdir -p "$at"
    refused 3 "${4:-is on a read-only filesystem: mount with -o ro}" "$plyfs" -o "upperdir=$2,lowerdir=$PWD/below" "$at"
    "$plyfs" -o "ro,upperdir=$2,lowerdir=$PWD/below" "$at" 2>said || { cat said; die "$1 as an upper that is only read"; }
    is "with -o ro it is mounted" "$(cat "$at/file" "$at/below"; touch "$at/new" 2>/dev/null || echo refused)" $'lower\nbelow\nrefused'
    "$plyfs" umount "$at"
}

play_tmpfs() {
    mkdir disk
    mount -t tmpfs none disk
    mkdir disk/{lower,upper} lower
    fill disk/lower
    fill lower
    local lacks=''
    setfattr -n user.try -v 1 disk/upper 2>/dev/null || lacks=xattrs
    walk "a lower on tmpfs" "$PWD/disk/lower" "$(local_upper)" "$lacks"
    walk "an upper on tmpfs" "$PWD/lower" "$PWD/disk/upper" "$lacks"
    rm -r disk/upper/*
    walk "both on tmpfs" "$PWD/disk/lower" "$PWD/disk/upper" "$lacks"
}

play_squashfs() {
    mkdir tree mnt below
    fill tree
    echo below >below/below
    mksquashfs tree image -quiet -no-progress >log
    if grep -qw squashfs /proc/filesystems || modprobe squashfs 2>/dev/null; then
        mount -t squashfs -o loop,ro image mnt
        read_only "squashfs" "$PWD/mnt"
        umount mnt
    else
        left_out "squashfs by the kernel" "this kernel has none"
    fi
    squashfuse -o allow_other image mnt
    read_only "squashfuse" "$PWD/mnt" torn "no workdir could be made"
    taken_away mnt
}

play_media() {
    local type
    mkdir tree mnt below
    fill tree
    echo below >below/below
    for type in ext4 xfs; do
        grep -qw "$type" /proc/filesystems || modprobe "$type" 2>/dev/null || { left_out "$type" "this kernel has none"; continue; }
        truncate -s 400M "$type"
        "mkfs.$type" -q "$type"
        mount -o loop "$type" mnt
        cp -a tree/. mnt
        [ "$type" = xfs ] || rmdir mnt/lost+found
        umount mnt
        mount -o loop,ro "$type" mnt
        read_only "$type, mounted read-only" "$PWD/mnt"
        umount mnt
    done
    mkisofs -quiet -R -o iso tree 2>log
    if grep -qw iso9660 /proc/filesystems || modprobe iso9660 2>/dev/null; then
        mount -o loop,ro iso mnt
        read_only "an iso image" "$PWD/mnt" torn
        umount mnt
    else
        left_out "an iso image by the kernel" "this kernel has no iso9660"
    fi
    fuseiso iso mnt -o allow_other
    read_only "an iso image by fuseiso" "$PWD/mnt" torn "no workdir could be made"
    taken_away mnt
}

play_sshfs() {
    local port=$((20000 + RANDOM % 20000)) patience made=''
    mkdir keys remote mnt
    mkdir remote/{lower,upper} lower
    fill remote/lower
    fill lower
    ssh-keygen -q -t ed25519 -N '' -f keys/host
    ssh-keygen -q -t ed25519 -N '' -f keys/client
    cp keys/client.pub keys/authorized
    printf '[127.0.0.1]:%s %s\n' "$port" "$(cut -d ' ' -f 1,2 keys/host.pub)" >keys/known
    cat >keys/config <<CONF
Port $port
ListenAddress 127.0.0.1
HostKey $PWD/keys/host
AuthorizedKeysFile $PWD/keys/authorized
StrictModes no
UsePAM no
PasswordAuthentication no
PermitRootLogin prohibit-password
PidFile none
Subsystem sftp internal-sftp
CONF
    # It locks itself into this directory, and no distribution makes it without its service.
    [ -d /run/sshd ] || { mkdir /run/sshd && made=yes; }
    "$(PATH=$PATH:/usr/sbin command -v sshd)" -D -f keys/config -E sshd.log &
    local sshd=$!
    for patience in {1..100}; do
        (: <"/dev/tcp/127.0.0.1/$port") 2>/dev/null && break
        sleep 0.1
    done
    sshfs -p "$port" -o "IdentityFile=$PWD/keys/client,UserKnownHostsFile=$PWD/keys/known,IdentitiesOnly=yes,allow_other,default_permissions" \
        "root@127.0.0.1:$PWD/remote" mnt || { cat sshd.log; die "sshfs does not mount after $patience looks for sshd"; }
    walk "a lower on sshfs" "$PWD/mnt/lower" "$(local_upper)" torn
    walk "an upper on sshfs" "$PWD/lower" "$PWD/mnt/upper" "torn xattrs fifos"
    taken_away mnt
    kill "$sshd"
    wait "$sshd" 2>/dev/null || true
    [ -z "$made" ] || rmdir /run/sshd
}

# The server is in userspace; the client is the kernel's, or fuse-nfs where the kernel has none.
nfs_client() {
    if grep -qw nfs4 /proc/filesystems || modprobe nfsv4 2>/dev/null; then
        echo kernel
    elif command -v fuse-nfs >/dev/null; then
        echo fuse-nfs
    fi
}

play_nfs() {
    local port=$((20000 + RANDOM % 20000)) patience client lacks=xattrs
    client=$(nfs_client)
    case $client in
        '')
            left_out nfs "this kernel has no NFS client, and there is no fuse-nfs (github.com/sahlberg/fuse-nfs; Debian has no package)"
            return
            ;;
        fuse-nfs) lacks='torn xattrs' ;;
    esac
    mkdir export mnt recovery
    mkdir export/{lower,upper} lower
    fill export/lower
    fill lower
    cat >ganesha.conf <<CONF
NFS_CORE_PARAM {
    NFS_Port = $port; MNT_Port = $((port + 1)); Bind_addr = 127.0.0.1; Protocols = 3, 4;
    Enable_NLM = false; Enable_RQUOTA = false;
}
NFSv4 { Graceless = true; RecoveryBackend = fs; RecoveryRoot = $PWD/recovery; }
EXPORT {
    Export_Id = 1; Path = $PWD/export; Pseudo = /export; Access_Type = RW; Squash = No_Root_Squash; SecType = sys; Protocols = 3, 4;
    FSAL { Name = VFS; }
}
LOG { Default_Log_Level = WARN; }
CONF
    # They put things in /run, which nobody else must find there.
    unshare --mount --pid --fork --kill-child sh -c 'mount -t tmpfs none /run; rpcbind -w 2>/dev/null; exec ganesha.nfsd -F -f "$0" -L "$1" -p /run/ganesha.pid' \
        "$PWD/ganesha.conf" "$PWD/ganesha.log" &
    local server=$!
    for patience in {1..100}; do
        (: <"/dev/tcp/127.0.0.1/$((port + 1))") 2>/dev/null && break
        sleep 0.1
    done
    case $client in
        kernel) mount -t nfs4 -o "vers=4.2,port=$port" 127.0.0.1:/export mnt ;;
        fuse-nfs)
            fuse-nfs --allow_other --nfs_share="nfs://127.0.0.1$PWD/export?nfsport=$port&mountport=$((port + 1))" --mountpoint="$PWD/mnt" >log 2>&1
            for patience in {1..100}; do mountpoint -q mnt && break; sleep 0.1; done
            ;;
    esac || { tail -n 5 log ganesha.log; die "$client mounts no NFS after $patience looks for the server"; }
    walk "a lower on NFS, by $client" "$PWD/mnt/lower" "$(local_upper)" "${lacks% xattrs}"
    walk "an upper on NFS, by $client" "$PWD/lower" "$PWD/mnt/upper" "$lacks"
    taken_away mnt
    # It does not listen to less while it waits.
    kill -KILL "$server"
    wait "$server" 2>/dev/null || true
}
