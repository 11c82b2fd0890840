# Do programs that nobody here wrote work in a run over the whole system, and is nothing outside changed by them?
# shellcheck shell=bash disable=SC2154 # scripts/clients sets $scratch and $plyfs.

need_runs() {
    need newuidmap:uidmap git:git make:make vim.tiny:vim-tiny tmux:tmux ssh-agent:openssh-client sqlite3:sqlite3 python3:python3 curl:curl cc:gcc
}

# What must not change: every name, inode, mode, owner, size, attribute change and byte of a home; all but the bytes of the system.
state_of_home() {
    find home -path home/.local -prune -o -printf '%p %i %m %U:%G %s %T@ %C@ %l\n' | LC_ALL=C sort
    find home -path home/.local -prune -o -type f -print0 | LC_ALL=C sort -z | xargs -0r sha256sum
}
state_of_system() {
    find /bin /etc /opt /root /srv /usr /var -xdev \( -path '*/.cargo' -o -path /var/log -o -path /var/tmp \) -prune -o \
        -printf '%p %i %m %U:%G %s %T@ %C@ %l\n' 2>/dev/null | LC_ALL=C sort | sha256sum
    find /tmp -maxdepth 1 -printf '%p\n' | grep -v -e plyfs-c -e bash_ | LC_ALL=C sort
}

# in_run OPTION… -- COMMAND: as a user who is lent ids, or not.
as_somebody() {
    env -i HOME="$PWD/home" USER=plyfs-runs SHELL=/bin/sh TERM=xterm PATH="$scratch/bin:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin" \
        ${http_proxy:+http_proxy="$http_proxy"} ${https_proxy:+https_proxy="$https_proxy"} \
        ${PIP_CERT:+PIP_CERT="$PIP_CERT"} ${NODE_EXTRA_CA_CERTS:+NODE_EXTRA_CA_CERTS="$NODE_EXTRA_CA_CERTS"} ${SSL_CERT_FILE:+SSL_CERT_FILE="$SSL_CERT_FILE"} \
        setpriv --reuid 54321 --regid 54321 --clear-groups "$@"
}
works() {
    local what=$1
    shift
    as_somebody sh -c "cd; $*" >log 2>&1 </dev/null || die "$what: $(cat log)"
    note "    ✓ $what"
}

play_runs() {
    local before system file
    mkdir home
    (cd home && mkdir -p src .ssh .local/state && echo 'int main(void){return 0;}' >src/main.c && printf 'all: main\nmain: main.c\n\tcc -o main main.c\n' >src/Makefile &&
        echo secret >.ssh/id && chmod 700 .ssh && ln -s src/main.c link && setfattr -n user.k -v v src/main.c)
    chown -R 54321:54321 home
    # He is known, and lent ids, in this namespace alone.
    cp /etc/passwd passwd
    echo "plyfs-runs:x:54321:54321::$PWD/home:/bin/sh" >>passwd
    echo 'plyfs-runs:700000:65536' >lent
    mount --bind passwd /etc/passwd
    before=$(state_of_home)
    system=$(state_of_system)

    works "git: clone, change, commit" "plyfs run --name git -- sh -euc 'git init -q repo; cd repo; git config user.email a@b; git config user.name n; cp -r ../src .; git add .; git commit -qm one; git clone -q . ../clone; git -C ../clone fsck'"
    works "make, and what it made runs" "plyfs run --name make -- sh -euc 'make -C src; src/main'"
    works "vim writes a file" "plyfs run --name vim -- sh -euc 'vim.tiny -es -u NONE -c \"%s/return 0/return 1/\" -c wq src/main.c; grep -q \"return 1\" src/main.c'"
    works "tmux, with its socket" "plyfs run --name tmux -- sh -euc 'tmux new-session -d -s s \"echo from tmux > tmuxed; sleep 5\"; for n in 1 2 3 4 5 6 7 8 9 10; do [ -s tmuxed ] && break; sleep 0.2; done; grep -q from tmuxed; tmux kill-server'"
    works "ssh-agent" "plyfs run --name ssh -- sh -euc 'ssh-keygen -q -t ed25519 -N \"\" -f key; eval \"\$(ssh-agent)\"; ssh-add key; ssh-add -l | grep -q ED25519; kill \$SSH_AGENT_PID'"
    works "sqlite3: transactions in WAL mode" "plyfs run --name sql -- sh -euc 'sqlite3 db \"pragma journal_mode=wal; create table t(x); insert into t values(1),(2);\"; [ \"\$(sqlite3 db \"select sum(x) from t\")\" = 3 ]; sqlite3 db \"pragma integrity_check\" | grep -qx ok'"
    works "a server on loopback" "plyfs run --name http --net none -- sh -euc 'python3 -m http.server -d src 8123 >/dev/null 2>&1 & server=\$!; for n in 1 2 3 4 5 6 7 8 9 10; do curl -sf localhost:8123/Makefile >got && break; sleep 0.3; done; kill \$server; cmp got src/Makefile'"
    works "2,000 short processes" "plyfs run --name many -- sh -euc 'for n in \$(seq 2000); do /bin/true; done'"
    works "rm -rf ~" "plyfs run --name rm -- sh -c 'rm -rf ~ 2>/dev/null; [ ! -e ~/src ]'"
    works "pip install" "plyfs run --name pip -- sh -euc 'python3 -m venv --help >/dev/null; python3 -m pip --version || exit 0; python3 -m pip install -q --user --break-system-packages six || python3 -m pip install -q --user six; python3 -c \"import six\"'"
    if as_somebody sh -c 'npm --version' >/dev/null 2>&1; then
        works "npm install" "plyfs run --name npm -- sh -euc 'mkdir js; cd js; npm init -y >/dev/null; npm install --silent is-number; node -e \"require(\\\"is-number\\\")\"'"
    else
        left_out "npm install" "there is no npm for every user"
    fi
    is "the home is as it was, to the last byte" "$(state_of_home)" "$before"

    works "apt-get install, as root of a run without other users" "plyfs run --root --name alone -- sh -euc 'apt-get install -y hello || { apt-get update; apt-get install -y hello; }; hello'"
    for file in /etc/subuid /etc/subgid; do mount --bind lent "$file"; done
    works "apt-get install, useradd and su, with lent ids" "plyfs run --root --name apt -- sh -euc 'apt-get install -y hello || { apt-get update; apt-get install -y hello; }; hello; useradd -m zoe; su zoe -c id | grep -q zoe'"
    umount /etc/subgid /etc/subuid
    works "all of it is listed and dropped" "[ \$(plyfs runs | wc -l) -ge 11 ]; plyfs diff apt | grep -q '^A /usr/bin/hello$'; plyfs discard \$(plyfs runs | cut -d' ' -f1); [ -z \"\$(plyfs runs)\" ]"
    is "the home is as it was" "$(state_of_home)" "$before"
    is "the system is as it was" "$(state_of_system)" "$system"
    if command -v cargo >/dev/null; then
        mkdir rooms
        (cd rooms && mkdir crate && cd crate && cargo init -q --vcs none --name room . >../log 2>&1 || die "cargo init: $(cat ../log)")
        is "cargo builds a crate in root's run" "$("$plyfs" run --name plyfs-clients-cargo --discard -- sh -euc 'cd rooms/crate && cargo build -q 2>&1 && target/debug/room'; ls rooms/crate)" \
            $'Hello, world!\nCargo.toml\nsrc'
    fi
}
