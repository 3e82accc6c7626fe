#!/bin/sh
# Fuzzes every target, three at a time: sh tests/fuzz/run.sh [TARGET...]
#
# FUZZ_SECONDS (60) is how long each may take. What is found is kept under target/fuzz: new inputs in corpus/, and what
# failed in failed-*, which `target/fuzz/bin/TARGET FILE` tries again and which then belongs into tests/fuzz/corpus. With
# FUZZ_KEEP=1 the inputs that reached something new are added to tests/fuzz/corpus. Needs g++ besides what mainstay needs.
set -eu
cd "$(dirname "$0")/../.."
seconds=${FUZZ_SECONDS:-60}
[ $# -gt 0 ] || set -- frames records requests config sentinel

# Dependencies are built as for everything else; only mainstay and the targets carry counters.
CARGO_INCREMENTAL=0 RUSTC_WORKSPACE_WRAPPER=$PWD/tests/fuzz/instrument.sh \
    cargo build --quiet --locked --package mainstay-fuzz --bins
mkdir -p target/fuzz/bin
for target in "$@"; do
    cp "target/debug/$target" target/fuzz/bin/
    mkdir -p "target/fuzz/corpus/$target"
done

# An input that takes longer than 30 s, or 1 GiB, fails as a panic does; the targets' own bounds are far below.
fuzz() {
    "target/fuzz/bin/$1" -max_total_time="$seconds" -max_len=8192 -timeout=30 -rss_limit_mb=1024 -print_final_stats=1 \
        -verbosity=1 -reload=0 -artifact_prefix="target/fuzz/failed-$1-" \
        "target/fuzz/corpus/$1" "tests/fuzz/corpus/$1" >"target/fuzz/$1.log" 2>&1
}
said() {
    executed=$(sed -n 's/^stat::number_of_executed_units: *//p' "target/fuzz/$1.log")
    new=$(sed -n 's/^stat::new_units_added: *//p' "target/fuzz/$1.log")
    peak=$(sed -n 's/^stat::peak_rss_mb: *//p' "target/fuzz/$1.log")
    reached=$(sed -n 's/.* cov: \([0-9]*\) .*/\1/p' "target/fuzz/$1.log" | tail -n 1)
    echo "$1: ${executed:-no} inputs in $seconds s, ${reached:-no} edges reached, ${new:-0} new inputs, ${peak:-?} MB"
}
failed=
while [ $# -gt 0 ]; do
    batch=
    while [ $# -gt 0 ] && [ "$(echo "$batch" | wc -w)" -lt 3 ]; do
        fuzz "$1" &
        batch="$batch $1=$!"
        shift
    done
    for one in $batch; do
        wait "${one#*=}" || failed="$failed ${one%=*}"
        said "${one%=*}"
    done
done
for target in $failed; do
    echo "$target FAILED:" >&2
    tail -n 40 "target/fuzz/$target.log" >&2
done
[ -z "$failed" ] || exit 1
if [ "${FUZZ_KEEP:-}" = 1 ]; then
    for target in frames records requests config sentinel; do
        [ ! -d "target/fuzz/corpus/$target" ] || [ ! -x "target/fuzz/bin/$target" ] ||
            "target/fuzz/bin/$target" -merge=1 -max_len=4096 "tests/fuzz/corpus/$target" "target/fuzz/corpus/$target"
    done
fi
