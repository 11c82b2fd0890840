# Shared by the benchmarks that time commands: which is how fast, next to others? The caller sets $rounds.
# shellcheck shell=bash disable=SC2154

# timed COMMAND: its duration in milliseconds, after everything before is on disk.
timed() {
    local begin end
    sync
    begin=$(date +%s%N)
    eval "$1" >log 2>&1 || die "$1: $(cat log)"
    end=$(date +%s%N)
    echo $(((end - begin) / 1000000))
}

median() { sort -n | awk '{ at[NR] = $1 } END { print at[int((NR + 1) / 2)] }'; }

# compare WHAT CLEANUP NAME COMMAND [NAME COMMAND]…: a row for each; the ratio is that to the first, in one round.
compare() {
    local what=$1 cleanup=$2 round index
    shift 2
    local names=() commands=()
    while [ $# -gt 0 ]; do
        names+=("$1")
        commands+=("$2")
        shift 2
    done
    rm -f times.*
    # Once without a clock: then the disk's caches are warm for all.
    eval "${commands[0]}" >log 2>&1 || die "${commands[0]}: $(cat log)"
    eval "$cleanup"
    for ((round = 0; round < rounds; round++)); do
        for ((index = 0; index < ${#names[@]}; index++)); do
            # Each round begins with another one.
            local at=$(((index + round) % ${#names[@]}))
            timed "${commands[$at]}" >>"times.$at"
            eval "$cleanup"
        done
    done
    # In one order again: the first line of each file is that of the first round.
    for ((index = 0; index < ${#names[@]}; index++)); do
        local ratio
        ratio=$(paste "times.$index" times.0 | awk '{ printf "%.2f\n", $1 / ($2 > 0 ? $2 : 1) }' | median)
        printf '| %s | %s | %s ms | %s |\n' "$what" "${names[$index]}" "$(median <"times.$index")" "$ratio"
    done
}
