# Shared by the scripts that hold plyfs against other programs: is one tree as the other, and who says what?
# shellcheck shell=bash

# tree_of DIR: a line for each entry, with all that there is to it.
tree_of() {
    (
        cd "$1"
        # Who has several names tells which is the first: link counts also count names that do not show.
        find . -mindepth 1 -printf '%P\0%y\0%m\0%U:%G\0%T@\0%s\0%l\0%i\0%n\0' |
            LC_ALL=C awk -v RS='\0' -v OFS='\t' '
                { field[(NR - 1) % 9] = $0 }
                NR % 9 == 0 {
                    gsub(/[\n\t]/, "?", field[0])
                    size = field[1] == "f" ? field[5] : "-"
                    mode = field[1] == "l" ? "-" : field[2]
                    print field[0], field[1], mode, field[3], field[4], size, field[6], field[7]
                }' | LC_ALL=C sort |
            LC_ALL=C awk -F '\t' -v OFS='\t' '{ if (!($8 in first)) first[$8] = $1; $8 = first[$8]; print }'
        find . -mindepth 1 -type f -print0 | LC_ALL=C sort -z | xargs -0r sha256sum -z | tr '\0\n' '\n?'
        find . -mindepth 1 \( -type b -o -type c \) -printf '%P ' -exec stat -c '%t:%T' {} \; | LC_ALL=C sort
        find . -mindepth 1 -print0 | LC_ALL=C sort -z | xargs -0r getfattr -h -d -m - -e hex 2>/dev/null |
            grep -v -e '^$' -e 'security.selinux=' -e '^user.containers.override' || true
    )
}

# layer_of DIR: the same of a layer, with one way to write whiteouts and opaque directories, and without times. A line names
# its entry first: one that differs can be told by its name.
layer_of() {
    tree_of "$1" | LC_ALL=C awk -F '\t' -v OFS='\t' '
        function parent(path) { return sub(/\/[^\/]*$/, "", path) ? path : "." }
        function base(path) { sub(/.*\//, "", path); return path }
        NF == 8 {
            if (base($1) == ".wh..wh..opq") opaque[parent($1)]
            else if (base($1) ~ /^\.wh\./) white[substr($1, 1, length($1) - length(base($1))) substr(base($1), 5)]
            else { $5 = ""; entry[$1] = $0 }
            next
        }
        /^# file: / { path = substr($0, 9); next }
        /^[a-z]+\.[^=]*=/ {
            if (/^(trusted|user)\.(overlay|fuseoverlayfs)\.opaque=0x79/) opaque[path]
            else if (!/^(trusted|user)\.(overlay|fuseoverlayfs)\./) line[path OFS $0]
            next
        }
        / 0:0$/ { sub(/ 0:0$/, ""); white[$0]; delete entry[$0]; next }
        /^[0-9a-f]+  \.\// {
            path = substr($0, index($0, "  ./") + 4)
            if (base(path) !~ /^\.wh\./) line[path OFS "sha256 " substr($0, 1, 16)]
            next
        }
        { line[$0] }
        END {
            for (path in entry) print entry[path]
            for (path in white) print path, "whiteout"
            for (path in opaque) print path, "opaque"
            for (text in line) print text
        }' | LC_ALL=C sort
}

# same WHAT DIR DIR [SED]: both trees are the same, but for what a sed script makes the same.
same() {
    tree_of "$2" | sed "${4:-}" >one.tree
    tree_of "$3" | sed "${4:-}" >two.tree
    diff one.tree two.tree >difference || {
        head -n 20 difference
        die "$1: the trees differ"
    }
    held "$1"
}

# is SENTENCE ONE OTHER
is() {
    [ "$2" = "$3" ] || die "$1: \`$2\` and \`$3\`"
    held "$1"
}

# refused CODE TEXT COMMAND…: it must fail so.
refused() {
    local code=$1 text=$2 status=0
    shift 2
    "$@" >said 2>&1 || status=$?
    [ "$status" = "$code" ] || die "$* ends with $status: $(cat said)"
    grep -qF -- "$text" said || die "$* says: $(cat said)"
    held "refused: $(tail -n 1 said)"
}

held() { printf '    ✓ %s\n' "$*"; }
