#!/bin/sh
# What cargo calls instead of rustc for the packages of this workspace (RUSTC_WORKSPACE_WRAPPER): adds the counters that
# libFuzzer is guided by. A stable rustc knows these flags; `cargo fuzz` asks for a nightly one for the sanitizers only.
# A build script runs by itself, and has nobody to count for.
case " $* " in
*' --crate-name build_script_'*) exec "$@" ;;
esac
exec "$@" -C passes=sancov-module \
    -C llvm-args=-sanitizer-coverage-level=4 \
    -C llvm-args=-sanitizer-coverage-inline-8bit-counters \
    -C llvm-args=-sanitizer-coverage-pc-table \
    -C llvm-args=-sanitizer-coverage-trace-compares
