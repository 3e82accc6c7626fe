#!/bin/sh
# Nodes of a mainstay cluster on this machine.
#
#   sh run-node.sh          three nodes and a client; shows how to write, how to kill the primary, and what happens
#   sh run-node.sh N        node N (1 to 5) alone, on loopback, in ./nodeN; each in its own terminal, node 1 first
#
# While three nodes run, from another terminal:
#
#   sh run-node.sh at HOST COMMAND...   runs a command on n1, n2, n3 or client
#   sh run-node.sh kill HOST            kills Redis there; HOST may be "primary"
#   sh run-node.sh unplug HOST          pulls its network cable (not on loopback)
#   sh run-node.sh plug                 puts all cables back
#
# Ctrl-C stops what it started. It uses no Redis that it did not start, and writes nothing outside this folder.
# MAINSTAY_BIN names a binary to use instead of building one.
set -u

here=$(cd "$(dirname "$0")" && pwd -P) || exit 70
script=$here/run-node.sh
show=$here/node-show
net=10.77.0
vip=$net.100
hosts='1 2 3'

case "$(pwd -P)/$here" in
"$here/$here") me='sh run-node.sh' ;;
*/*[!A-Za-z0-9/._-]*) me="sh '$script'" ;;
*) me="sh $script" ;;
esac

say() {
    printf '%s\n' "$*"
}
die() {
    code=$1
    shift
    printf 'run-node.sh: %s\n' "$*" >&2
    exit "$code"
}

# ---- what is needed -------------------------------------------------------------------------------------------------

# Debian's packages that are missing, one a line. Of Redis only redis-tools: it carries the server's binary (the server
# and redis-check-rdb are one program) and starts no service.
missing_packages() {
    command -v redis-cli >/dev/null && redis_program >/dev/null || echo redis-tools
    [ "$1" = node ] || command -v ip >/dev/null || echo iproute2
    [ "$1" = node ] || command -v mount >/dev/null || echo mount
    if [ -z "${MAINSTAY_BIN:-}" ] && command -v cargo >/dev/null; then
        command -v cc >/dev/null || echo gcc
        command -v pkg-config >/dev/null || echo pkg-config
        pkg-config --exists libsystemd 2>/dev/null || echo libsystemd-dev
    fi
}

redis_program() {
    command -v redis-server || command -v valkey-server || command -v redis-check-rdb
}

need_packages() {
    packages=$(missing_packages "$1" | tr '\n' ' ')
    [ -n "$packages" ] || return 0
    if [ "$(id -u)" -ne 0 ]; then
        die 69 "missing Debian packages; install them with: sudo apt-get install --no-install-recommends $packages"
    fi
    say "installing Debian's packages: $packages"
    # The packages' names are separate words.
    # shellcheck disable=SC2086
    if ! { apt-get -q update && DEBIAN_FRONTEND=noninteractive \
        apt-get -q install -y --no-install-recommends $packages; } </dev/null; then
        die 69 "apt-get could not install: $packages"
    fi
}

# Sets bin. A debug build: it is there in a fraction of the time that the small, slow-to-link release build takes.
build() {
    if [ -n "${MAINSTAY_BIN:-}" ]; then
        [ -x "$MAINSTAY_BIN" ] || die 66 "MAINSTAY_BIN=$MAINSTAY_BIN is no program"
        bin=$MAINSTAY_BIN
        return
    fi
    # A relative one is cargo's to resolve, which runs in this folder.
    target=${CARGO_TARGET_DIR:-target}
    case $target in /*) ;; *) target=$here/$target ;; esac
    bin=$target/debug/mainstay
    if command -v cargo >/dev/null; then
        [ -x "$bin" ] || say "building mainstay (cargo build): one to two minutes, once"
        (cd "$here" && cargo build --locked --quiet --bin mainstay) </dev/null ||
            die 70 'the build failed; the lines above say why'
        return
    fi
    [ -x "$bin" ] || bin=$target/release/mainstay
    [ -x "$bin" ] || die 69 'no cargo to build with: install Rust (https://rustup.rs), or name a binary in MAINSTAY_BIN'
    say "no cargo here: using $bin as it is"
}

# Sets redis: a program called redis-server. Debian's redis-tools has it under another name.
find_redis() {
    redis=$(redis_program) || die 69 'no redis-server'
    case $redis in
    */redis-check-rdb)
        mkdir -p "$1"
        ln -sf "$redis" "$1/redis-server"
        redis=$1/redis-server
        ;;
    esac
}

# The program that listens on a port of loopback, in words; fails if nobody does.
port_owner() {
    hex=$(printf '%04X' "$1")
    line=$(cat /proc/net/tcp /proc/net/tcp6 2>/dev/null | awk -v port="$hex" '
        { split($2, at, ":") }
        $4 == "0A" && at[2] == port && at[1] ~ /^(0*|0100007F|0*FFFF00000100007F)$/ { print $8, $10; exit }')
    [ -n "$line" ] || return 1
    for process in /proc/[0-9]*; do
        if ls -l "$process/fd" 2>/dev/null | grep -qF "socket:[${line#* }]"; then
            echo "$(cat "$process/comm") (pid ${process#/proc/})"
            return
        fi
    done
    echo "a process of $(id -nu "${line% *}" 2>/dev/null || echo "uid ${line% *}")"
}

need_ports() {
    for port in $(($1 + 6999)) $(($1 + 7999)) $(($1 + 6378)) $(($1 + 26378)); do
        if owner=$(port_owner "$port"); then
            die 69 "node $1 needs port $port of 127.0.0.1, which is taken by $owner; stop that first"
        fi
    done
}

# ---- keeping programs running ---------------------------------------------------------------------------------------

alive() {
    kill -0 "$1" 2>/dev/null && ! grep -qs '^State:.Z' "/proc/$1/status"
}

# Sleeps, but wakes for signals.
nap() {
    sleep "$1" &
    napping=$!
    wait "$napping" 2>/dev/null
    kill "$napping" 2>/dev/null
}

# keep NAME PIDFILE COMMAND...: in the background, with sessions of their own, so that Ctrl-C reaches this script alone;
# both die with it even if it is killed. Its pid is in $!.
keep() {
    setsid setpriv --pdeathsig KILL sh "$script" __keep "$@" &
}

keeper() {
    name=$1 pidfile=$2
    shift 2
    stopping=
    child=
    trap 'stopping=1; [ -z "$child" ] || kill -TERM "$child" 2>/dev/null' TERM
    trap '' INT HUP
    pause=1
    while [ -z "$stopping" ]; do
        begun=$(date +%s)
        setpriv --pdeathsig KILL "$@" </dev/null &
        child=$!
        echo "$child" >"$pidfile"
        wait "$child"
        code=$?
        if [ -n "$stopping" ]; then
            # An agent hands over first, which takes it 8 seconds at the most.
            tries=0
            while alive "$child" && [ "$tries" -lt 120 ]; do
                tries=$((tries + 1))
                sleep 0.1
            done
            kill -KILL "$child" 2>/dev/null
            break
        fi
        [ $(($(date +%s) - begun)) -lt 10 ] || pause=1
        ended="ended with code $code"
        [ "$code" -le 128 ] || ended="was killed by signal $((code - 128))"
        say "$name $ended; it is started again in $pause s"
        child=
        nap "$pause"
        pause=$((pause * 2))
        [ "$pause" -le 8 ] || pause=8
    done
    rm -f "$pidfile"
}

# Stops a keeper and waits for it; the keeper bounds that.
end_keeper() {
    [ -n "$1" ] || return 0
    kill -TERM "$1" 2>/dev/null
    while alive "$1"; do
        wait "$1" 2>/dev/null
    done
}

# ---- one node on loopback -------------------------------------------------------------------------------------------

# The cluster's key: every node has its own copy, and a new node takes that of any other.
node_key() {
    [ ! -s "$1/cluster.key" ] || return 0
    while :; do
        for key in "$base"/node[1-5]/cluster.key; do
            if [ -s "$key" ]; then
                (umask 077 && cat "$key" >"$1/cluster.key.new") && mv "$1/cluster.key.new" "$1/cluster.key"
                return
            fi
        done
        if [ "$no" -eq 1 ]; then
            (umask 077 && "$bin" keygen >"$1/cluster.key.new") && mv "$1/cluster.key.new" "$1/cluster.key" && return
            die 70 'the key could not be made'
        fi
        [ -n "${waited:-}" ] || say "node $no waits for node 1, which starts the cluster: $me 1"
        waited=1
        nap 1
        [ -z "$stopping" ] || exit 0
    done
}

node_config() {
    echo "# Written by run-node.sh at every start."
    echo "[node]"
    echo "name = \"n$no\""
    echo "address = \"127.0.0.1:$((6999 + no))\""
    echo "data_dir = \"$1/data\""
    echo "[cluster]"
    echo "name = \"run-node\""
    echo "key_file = \"$1/cluster.key\""
    [ -n "$join" ] || echo "members = { n$no = \"127.0.0.1:$((6999 + no))\" }"
    echo "[[group]]"
    echo "name = \"mymaster\""
    echo "redis = \"127.0.0.1:$((6378 + no))\""
    echo "announce = \"127.0.0.1:$((6378 + no))\""
    echo "[sentinel]"
    echo "listen = \"127.0.0.1:$((26378 + no))\""
    echo "[http]"
    echo "listen = \"127.0.0.1:$((7999 + no))\""
    echo "[control]"
    echo "socket = \"$1/mainstay.sock\""
}

# Whether this node starts the cluster: node 1, unless it lost its files while others kept theirs.
founds() {
    [ "$no" -eq 1 ] || return 1
    [ ! -e "$dir/founder" ] || return 0
    for key in "$base"/node[2-5]/cluster.key; do
        if [ -s "$key" ]; then
            say "node 1 has no files, and ${key%/*} has: it asks to be taken in. To begin anew: rm -rf $base/node[1-5]"
            return 1
        fi
    done
    : >"$dir/founder"
}

# Whom to ask to be taken in: a node that runs, else one that has run.
peer() {
    first=
    for other in 1 2 3 4 5; do
        [ "$other" -ne "$no" ] || continue
        if port_owner $((6999 + other)) >/dev/null; then
            first=$other
            break
        fi
        [ -n "$first" ] || [ ! -s "$base/node$other/cluster.key" ] || first=$other
    done
    echo "127.0.0.1:$((6999 + ${first:-1}))"
}

run_node() {
    no=$1
    base=${RUN_NODE_BASE:-$here}
    dir=$base/node$no
    stopping=
    trap 'stopping=1' INT TERM HUP
    need_packages node
    build
    need_ports "$no"
    mkdir -p "$dir/redis" "$dir/data" || die 73 "$dir cannot be made"
    find_redis "$dir"
    # Before the key, which the others wait for.
    join=
    founds || join=later
    node_key "$dir"
    [ -z "$join" ] || join=$(peer)
    node_config "$dir" >"$dir/mainstay.toml" || die 73 "$dir/mainstay.toml cannot be written"
    say "node $no: agent 127.0.0.1:$((6999 + no)), Redis 127.0.0.1:$((6378 + no)), files in $dir; Ctrl-C stops it."
    say 'There is no VIP on loopback; a VIP needs network namespaces: sh run-node.sh shows it.'
    keep "node $no: Redis" "$dir/redis.pid" "$redis" --port $((6378 + no)) --bind 127.0.0.1 --dir "$dir/redis" \
        --logfile "$dir/redis.log" --replicaof 127.0.0.1 1 --replica-read-only yes
    redis_keeper=$!
    set -- run --config "$dir/mainstay.toml"
    [ -z "$join" ] || set -- "$@" --join "$join"
    keep "node $no: the agent" "$dir/agent.pid" "$bin" "$@"
    agent_keeper=$!
    watch_node
    say "node $no: stopping"
    trap '' INT TERM HUP
    end_keeper "$agent_keeper"
    end_keeper "$redis_keeper"
    rm -f "$dir/mainstay.sock"
}

# Until it is to stop: says once what this node has become.
watch_node() {
    told=
    while [ -z "$stopping" ]; do
        if ! alive "$agent_keeper" || ! alive "$redis_keeper"; then
            say "node $no: what keeps its programs running was killed"
            return
        fi
        # Degraded (1) is what a cluster is while it is still growing.
        [ -n "$told" ] || text=$("$bin" status --socket "$dir/mainstay.sock" 2>/dev/null)
        if [ -z "$told" ] && say "$text" | grep -qE "^ *n$no +(serving|following)"; then
            told=1
            say "$text"
            say "again: $bin status --socket $dir/mainstay.sock"
        fi
        nap 0.5
    done
}

# ---- three nodes ----------------------------------------------------------------------------------------------------

# The options that make the namespaces; an ordinary user needs one of its own users too.
namespaces() {
    echo --mount --pid --net --fork --kill-child
    [ "$(id -u)" -eq 0 ] || echo --user --map-root-user
}

probe() {
    # shellcheck disable=SC2046
    unshare $(namespaces) sh -c 'mount -t proc proc /proc && mount -t tmpfs tmpfs /run && ip netns add probe &&
        ip link add probe type bridge && ip link add probe1 type veth peer name eth0 netns probe &&
        ip netns exec probe ip link set lo up' 2>&1
}

# The outer end: the namespaces' processes die with it, whatever happens to it.
run_show() {
    stopping=
    trap 'stopping=1' INT TERM HUP
    if running=$(show_pid); then
        die 69 "three nodes run already (pid $running); end them with Ctrl-C in their terminal"
    fi
    rm -rf "$show"
    need_packages show
    build
    mkdir "$show" || die 73 "$show cannot be made"
    find_redis "$show/bin"
    mkdir -p "$show/bin"
    ln -sf "$bin" "$show/bin/mainstay"
    if refused=$(probe); then
        echo namespaces >"$show/mode"
        mkdir "$show/hosts"
        # What unshare itself says when its child is killed is no news.
        # shellcheck disable=SC2046,SC2016
        RUN_NODE_ME=$me setsid setpriv --pdeathsig KILL unshare $(namespaces) \
            sh -c 'exec sh "$@" 2>&3' sh "$script" __init "$redis" </dev/null 3>&2 2>/dev/null &
        outer=$!
    else
        say "No network namespaces here, so no VIP: the nodes run on loopback. The reason: $refused"
        for no in $hosts; do
            need_ports "$no"
        done
        echo loopback >"$show/mode"
        RUN_NODE_ME=$me setsid setpriv --pdeathsig KILL sh "$script" __loopback </dev/null &
        outer=$!
        echo "$outer" >"$show/pid"
    fi
    while [ -z "$stopping" ] && alive "$outer"; do
        nap 1
    done
    trap '' INT TERM HUP
    end_show
    [ -n "$stopping" ] || die 70 'the nodes ended by themselves; the lines above say why'
}

end_show() {
    if [ "$(cat "$show/mode")" = namespaces ]; then
        # The first process of the inner process namespace takes all others with it, and they the namespaces.
        ! running=$(show_pid) || kill -KILL "$running" 2>/dev/null
    else
        kill -TERM "$outer" 2>/dev/null
    fi
    while alive "$outer"; do
        wait "$outer" 2>/dev/null
    done
    rm -rf "$show"
    say 'Stopped; nothing is left.'
}

show_pid() {
    [ -s "$show/pid" ] || return 1
    pid=$(cat "$show/pid")
    grep -qsF "$script" "/proc/$pid/cmdline" && echo "$pid"
}

# The first process inside: a switch, four hosts on it, and the display.
init() {
    redis=$1
    trap '' INT HUP
    # Its number as the outer end knows it: /proc is still the outer one.
    read -r inner _ </proc/self/stat && echo "$inner" >"$show/pid"
    # In memory, and gone with the namespace; by its own path the agents take it for a disk.
    mount -t proc proc /proc && mount -t tmpfs tmpfs /run && mount -t tmpfs tmpfs "$show/hosts" &&
        mkdir -p /run/mainstay /run/show && mount --bind "$show/hosts" /run/show || exit 70
    ip link set lo up && ip link add switch type bridge && ip link set switch up || exit 70
    for no in $hosts client; do
        case $no in client) name=client last=9 ;; *) name=n$no last=$no ;; esac
        ip netns add "$name" && ip link add "$name" type veth peer name eth0 netns "$name" &&
            ip link set "$name" master switch up && ip -n "$name" address add "$net.$last/24" dev eth0 &&
            ip -n "$name" link set lo up && ip -n "$name" link set eth0 up || exit 70
    done
    (umask 077 && "$show/bin/mainstay" keygen >/run/show/cluster.key) || exit 70
    for no in $hosts; do
        mkdir -p "/run/show/n$no/redis" "/run/show/n$no/data"
        host_config >"/run/show/n$no/mainstay.toml"
        ip netns exec "n$no" sh "$script" __host "$no" "$redis" >"/run/show/n$no/host.log" 2>&1 &
    done
    watch_show
}

host_config() {
    echo "[node]"
    echo "name = \"n$no\""
    echo "address = \"$net.$no:7400\""
    echo "data_dir = \"$show/hosts/n$no/data\""
    echo "[cluster]"
    echo "name = \"run-node\""
    echo "key_file = \"/run/show/cluster.key\""
    echo "members = { n1 = \"$net.1:7400\", n2 = \"$net.2:7400\", n3 = \"$net.3:7400\" }"
    echo "[[group]]"
    echo "name = \"mymaster\""
    echo "redis = \"127.0.0.1:6379\""
    echo "announce = \"$net.$no:6379\""
    echo "vip = \"$vip/24\""
    echo "interface = \"eth0\""
}

# On a host: /run/mainstay is its own, as on a real one.
host() {
    no=$1 redis=$2
    mount --bind "/run/show/n$no" /run/mainstay || exit 70
    echo $$ >/run/mainstay/host.pid
    keep "Redis" /run/mainstay/redis.pid "$redis" --port 6379 --bind '*' '-::*' --protected-mode no \
        --dir /run/mainstay/redis --logfile /run/mainstay/redis.log --replicaof 127.0.0.1 1 --replica-read-only yes
    keep "the agent" /run/mainstay/agent.pid "$show/bin/mainstay" run --config /run/mainstay/mainstay.toml
    wait
}

# Without namespaces: three nodes as `run-node.sh N` starts them.
loopback() {
    stopping=
    trap 'stopping=1' TERM
    nodes=
    for no in $hosts; do
        MAINSTAY_BIN=$show/bin/mainstay RUN_NODE_BASE=$show setpriv --pdeathsig KILL sh "$script" "$no" \
            >"$show/node$no.log" 2>&1 &
        nodes="$nodes $!"
    done
    watch_show
    for node in $nodes; do
        kill -TERM "$node" 2>/dev/null
    done
    wait
}

socket_of() {
    if [ "$(cat "$show/mode")" = namespaces ]; then
        echo "/run/show/n$1/mainstay.sock"
    else
        echo "$show/node$1/mainstay.sock"
    fi
}

# What a node says that sees a quorum; else what any says. Fails if none answers.
cluster_status() {
    found=
    for no in $hosts; do
        said=$("$show/bin/mainstay" status --socket "$(socket_of "$no")" "$@" 2>/dev/null)
        code=$?
        [ -z "$said" ] || [ "$code" -gt 2 ] || found=${found:-$said}
        if [ "$code" -le 1 ]; then
            found=$said
            break
        fi
    done
    [ -n "$found" ] && say "$found"
}

primary() {
    cluster_status --json | sed -n 's/^ *"primary": *"\([^"]*\)".*/\1/p' | head -n 1
}

how_to() {
    run=$RUN_NODE_ME
    if [ "$(cat "$show/mode")" = namespaces ]; then
        cat <<TEXT
Three nodes, each with Redis and an agent on a host of its own (a network namespace). The VIP is $vip.
In another terminal, a client's and an operator's commands:
  $run at client redis-cli -h $vip set greeting hello
  $run at client redis-cli -h $vip get greeting
  $run kill primary
  $run unplug primary
  $run plug
  $run at n2 mainstay switchover
  $run at n2 mainstay status
TEXT
    else
        cat <<TEXT
Three nodes on loopback, ports 6379 to 6381, without a VIP: ask the status which one is primary.
In another terminal, a client's and an operator's commands:
  $run at primary redis-cli set greeting hello
  $run at primary redis-cli get greeting
  $run kill primary
  $run at n2 mainstay switchover
  $run at n2 mainstay status
TEXT
    fi
    cat <<TEXT
After kill, the primary's agent sees its process die and gives up at once; the others seal, promote the one with the
most complete data, and it takes over within a second. The old one comes back sealed and follows.
Ctrl-C ends all of it.
TEXT
}

# On a terminal the status stays in place; else it is printed when it changes.
watch_show() {
    last=
    if [ -t 1 ]; then
        printf '\033[2J'
    else
        how_to
    fi
    while [ -z "${stopping:-}" ]; do
        text=$(cluster_status) || text='no agent answers yet'
        if [ -t 1 ]; then
            { how_to && say && say "$text"; } | awk '
                BEGIN { printf "\033[H" } { printf "%s\033[K\n", $0 } END { printf "\033[J" }'
        else
            # Counts and ages change all the time, and say nothing new.
            essence=$(say "$text" | sed -e '/last change/d' -e 's/[0-9.]* \(ms\|s\|min\|h\|d\)\>//g' \
                -e 's/ [0-9][0-9]*\>//g' | tr -s ' -')
            if [ "$essence" != "$last" ]; then
                last=$essence
                say "--- $(date +%T)"
                say "$text"
            fi
        fi
        nap 1
    done
}

# ---- from another terminal ------------------------------------------------------------------------------------------

# Runs this script's word $1 inside the running show.
inside() {
    pid=$(show_pid) || die 69 "three nodes do not run; start them with: $me"
    PATH=$show/bin:$PATH
    export PATH
    if [ "$(cat "$show/mode")" = loopback ]; then
        exec sh "$script" "$@"
    fi
    users=
    [ "$(id -u)" -eq 0 ] || users='--user --preserve-credentials'
    # shellcheck disable=SC2086
    exec nsenter --target "$pid" $users --mount --pid --net sh "$script" "$@"
}

# n1, n2, n3 or primary; sets host_no.
pick() {
    name=$1
    [ "$name" != primary ] || name=$(primary)
    case $name in
    n[123]) host_no=${name#n} ;;
    '') die 75 'no node is primary at the moment' ;;
    *) die 64 "no such host: $name; there are n1, n2, n3${2:-}" ;;
    esac
}

at() {
    where=$1
    shift
    if [ "$(cat "$show/mode")" = namespaces ]; then
        [ "$where" != client ] || exec ip netns exec client "$@"
        pick "$where" ', client and primary'
        exec nsenter --target "$(cat "/run/show/n$host_no/host.pid")" --mount --net "$@"
    fi
    [ "$where" != client ] || exec "$@"
    pick "$where" ', client and primary'
    command=$1
    shift
    case $command in
    mainstay) exec mainstay "$@" --socket "$(socket_of "$host_no")" ;;
    redis-cli) exec redis-cli -p $((6378 + host_no)) "$@" ;;
    *) exec "$command" "$@" ;;
    esac
}

kill_redis() {
    pick "$1" ' and primary'
    pid=$(cat "$(dirname "$(socket_of "$host_no")")/redis.pid") || die 75 "Redis on n$host_no does not run"
    kill -KILL "$pid" && say "killed Redis on n$host_no"
}

unplug() {
    [ "$(cat "$show/mode")" = namespaces ] || die 69 'there are no cables on loopback'
    pick "$1" ' and primary'
    ip link set "n$host_no" down && say "n$host_no is cut off; $RUN_NODE_ME plug puts the cable back"
}

plug() {
    [ "$(cat "$show/mode")" = namespaces ] || die 69 'there are no cables on loopback'
    for no in $hosts; do
        ip link set "n$no" up || exit 70
    done
    say 'all hosts are connected'
}

usage() {
    sed -n '3,14s/^# \{0,1\}//p' "$script"
}

: "${RUN_NODE_ME:=$me}"
export RUN_NODE_ME

case "${1-}" in
'') run_show ;;
[1-5]) [ $# -eq 1 ] || die 64 'one number, 1 to 5' && run_node "$1" ;;
at) [ $# -ge 3 ] || die 64 "usage: $me at HOST COMMAND..." && inside __at "$@" ;;
kill) [ $# -eq 2 ] || die 64 "usage: $me kill HOST" && inside __kill "$2" ;;
unplug) [ $# -eq 2 ] || die 64 "usage: $me unplug HOST" && inside __unplug "$2" ;;
plug) [ $# -eq 1 ] || die 64 "usage: $me plug" && inside __plug ;;
__keep) shift && keeper "$@" ;;
__init) shift && init "$@" ;;
__host) shift && host "$@" ;;
__loopback) loopback ;;
__at) shift 2 && at "$@" ;;
__kill) kill_redis "$2" ;;
__unplug) unplug "$2" ;;
__plug) plug ;;
-h | --help | help) usage ;;
*) usage >&2 && exit 64 ;;
esac
