# Print an optspec for argparse to handle cmd's options that are independent of any subcommand.
function __fish_mainstay_global_optspecs
    string join \n h/help V/version
end

function __fish_mainstay_needs_command
    # Figure out if the current invocation already has a command.
    set -l cmd (commandline -opc)
    set -e cmd[1]
    argparse -s (__fish_mainstay_global_optspecs) -- $cmd 2>/dev/null
    or return
    if set -q argv[1]
        # Also print the command, so this can be used to figure out what it is.
        echo $argv[1]
        return 1
    end
    return 0
end

function __fish_mainstay_using_subcommand
    set -l cmd (__fish_mainstay_needs_command)
    test -z "$cmd"
    and return 1
    contains -- $cmd[1] $argv
end

complete -c mainstay -n "__fish_mainstay_needs_command" -s h -l help -d 'Print help'
complete -c mainstay -n "__fish_mainstay_needs_command" -s V -l version -d 'Print version'
complete -c mainstay -n "__fish_mainstay_needs_command" -f -a "run" -d 'Run the agent (what the systemd unit starts)'
complete -c mainstay -n "__fish_mainstay_needs_command" -f -a "status" -d 'Show every group and node as this node sees them'
complete -c mainstay -n "__fish_mainstay_needs_command" -f -a "switchover" -d 'Hand the primary over to another node without losing a write; waits for the end'
complete -c mainstay -n "__fish_mainstay_needs_command" -f -a "failover" -d 'Promote a node without proof that nothing is lost: says what may be lost, and asks'
complete -c mainstay -n "__fish_mainstay_needs_command" -f -a "pause" -d 'Stop automatic promotion for a while, in the whole cluster'
complete -c mainstay -n "__fish_mainstay_needs_command" -f -a "resume" -d 'Allow automatic promotion again'
complete -c mainstay -n "__fish_mainstay_needs_command" -f -a "bootstrap" -d 'Say whose data is the group\'s, where its members hold several; the others\' is given up'
complete -c mainstay -n "__fish_mainstay_needs_command" -f -a "members" -d 'List the nodes of the cluster'
complete -c mainstay -n "__fish_mainstay_needs_command" -f -a "leave" -d 'Take a node out of the cluster for good'
complete -c mainstay -n "__fish_mainstay_needs_command" -f -a "join" -d 'Drop this node\'s membership in a cluster that went on without it, and join anew'
complete -c mainstay -n "__fish_mainstay_needs_command" -f -a "fence" -d 'Stop serving on this host now: seal its instances and drop its VIPs, agent running or not'
complete -c mainstay -n "__fish_mainstay_needs_command" -f -a "init" -d 'Write config, key, Redis settings and drop-in of this host, or remove them'
complete -c mainstay -n "__fish_mainstay_needs_command" -f -a "events" -d 'Show what happened, from this host\'s journal or the replicated history'
complete -c mainstay -n "__fish_mainstay_needs_command" -f -a "release" -d 'Hand over what an instance serves before it is stopped (for ExecStop)'
complete -c mainstay -n "__fish_mainstay_needs_command" -f -a "unit-request" -d 'Serve one request of the agent for a Redis unit (what mainstay-unit@.service runs, as root)'
complete -c mainstay -n "__fish_mainstay_needs_command" -f -a "notify-event" -d 'Run the notify command with one event from stdin (what mainstay-notify@.service runs)'
complete -c mainstay -n "__fish_mainstay_needs_command" -f -a "keygen" -d 'Print a new cluster key'
complete -c mainstay -n "__fish_mainstay_needs_command" -f -a "import-sentinel" -d 'Print a config made of a sentinel.conf, and on stderr what cannot be carried over'
complete -c mainstay -n "__fish_mainstay_needs_command" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c mainstay -n "__fish_mainstay_using_subcommand run" -l config -d 'The config file' -r -F
complete -c mainstay -n "__fish_mainstay_using_subcommand run" -l join -d 'Ask the running cluster at this address to take this node in, if it has no state yet' -r
complete -c mainstay -n "__fish_mainstay_using_subcommand run" -s h -l help -d 'Print help'
complete -c mainstay -n "__fish_mainstay_using_subcommand status" -l group -d 'Only this group' -r
complete -c mainstay -n "__fish_mainstay_using_subcommand status" -l socket -d 'The agent\'s control socket; else the one of --config, else /run/mainstay/mainstay.sock' -r -F
complete -c mainstay -n "__fish_mainstay_using_subcommand status" -l config -d 'The config file that names the control socket' -r -F
complete -c mainstay -n "__fish_mainstay_using_subcommand status" -l json -d 'As JSON, with stable keys'
complete -c mainstay -n "__fish_mainstay_using_subcommand status" -l watch -d 'Again every second, until Ctrl-C'
complete -c mainstay -n "__fish_mainstay_using_subcommand status" -s h -l help -d 'Print help'
complete -c mainstay -n "__fish_mainstay_using_subcommand switchover" -l group -d 'The group; needed where there is more than one' -r
complete -c mainstay -n "__fish_mainstay_using_subcommand switchover" -l to -d 'The node to hand over to; without it the best follower is taken' -r
complete -c mainstay -n "__fish_mainstay_using_subcommand switchover" -l socket -d 'The agent\'s control socket; else the one of --config, else /run/mainstay/mainstay.sock' -r -F
complete -c mainstay -n "__fish_mainstay_using_subcommand switchover" -l config -d 'The config file that names the control socket' -r -F
complete -c mainstay -n "__fish_mainstay_using_subcommand switchover" -s h -l help -d 'Print help'
complete -c mainstay -n "__fish_mainstay_using_subcommand failover" -l to -d 'The node to promote' -r
complete -c mainstay -n "__fish_mainstay_using_subcommand failover" -l group -d 'The group; needed where there is more than one' -r
complete -c mainstay -n "__fish_mainstay_using_subcommand failover" -l socket -d 'The agent\'s control socket; else the one of --config, else /run/mainstay/mainstay.sock' -r -F
complete -c mainstay -n "__fish_mainstay_using_subcommand failover" -l config -d 'The config file that names the control socket' -r -F
complete -c mainstay -n "__fish_mainstay_using_subcommand failover" -l force -d 'That this is by force; a change of primary without loss is `mainstay switchover`'
complete -c mainstay -n "__fish_mainstay_using_subcommand failover" -l yes -d 'Do not ask'
complete -c mainstay -n "__fish_mainstay_using_subcommand failover" -s h -l help -d 'Print help'
complete -c mainstay -n "__fish_mainstay_using_subcommand pause" -l for -d 'For how long, such as 10m or 2h; without it until `mainstay resume`' -r
complete -c mainstay -n "__fish_mainstay_using_subcommand pause" -l reason -d 'Why, for whoever looks at `mainstay status` later' -r
complete -c mainstay -n "__fish_mainstay_using_subcommand pause" -l group -d 'Only this group' -r
complete -c mainstay -n "__fish_mainstay_using_subcommand pause" -l socket -d 'The agent\'s control socket; else the one of --config, else /run/mainstay/mainstay.sock' -r -F
complete -c mainstay -n "__fish_mainstay_using_subcommand pause" -l config -d 'The config file that names the control socket' -r -F
complete -c mainstay -n "__fish_mainstay_using_subcommand pause" -s h -l help -d 'Print help'
complete -c mainstay -n "__fish_mainstay_using_subcommand resume" -l group -d 'Only this group' -r
complete -c mainstay -n "__fish_mainstay_using_subcommand resume" -l socket -d 'The agent\'s control socket; else the one of --config, else /run/mainstay/mainstay.sock' -r -F
complete -c mainstay -n "__fish_mainstay_using_subcommand resume" -l config -d 'The config file that names the control socket' -r -F
complete -c mainstay -n "__fish_mainstay_using_subcommand resume" -s h -l help -d 'Print help'
complete -c mainstay -n "__fish_mainstay_using_subcommand bootstrap" -l primary -d 'The node whose data stays' -r
complete -c mainstay -n "__fish_mainstay_using_subcommand bootstrap" -l group -d 'The group; needed where there is more than one' -r
complete -c mainstay -n "__fish_mainstay_using_subcommand bootstrap" -l socket -d 'The agent\'s control socket; else the one of --config, else /run/mainstay/mainstay.sock' -r -F
complete -c mainstay -n "__fish_mainstay_using_subcommand bootstrap" -l config -d 'The config file that names the control socket' -r -F
complete -c mainstay -n "__fish_mainstay_using_subcommand bootstrap" -l yes -d 'Do not ask, at a terminal'
complete -c mainstay -n "__fish_mainstay_using_subcommand bootstrap" -s h -l help -d 'Print help'
complete -c mainstay -n "__fish_mainstay_using_subcommand members" -l socket -d 'The agent\'s control socket; else the one of --config, else /run/mainstay/mainstay.sock' -r -F
complete -c mainstay -n "__fish_mainstay_using_subcommand members" -l config -d 'The config file that names the control socket' -r -F
complete -c mainstay -n "__fish_mainstay_using_subcommand members" -l json -d 'As JSON'
complete -c mainstay -n "__fish_mainstay_using_subcommand members" -s h -l help -d 'Print help'
complete -c mainstay -n "__fish_mainstay_using_subcommand leave" -l socket -d 'The agent\'s control socket; else the one of --config, else /run/mainstay/mainstay.sock' -r -F
complete -c mainstay -n "__fish_mainstay_using_subcommand leave" -l config -d 'The config file that names the control socket' -r -F
complete -c mainstay -n "__fish_mainstay_using_subcommand leave" -s h -l help -d 'Print help'
complete -c mainstay -n "__fish_mainstay_using_subcommand join" -l socket -d 'The agent\'s control socket; else the one of the config' -r -F
complete -c mainstay -n "__fish_mainstay_using_subcommand join" -l config -d 'This host\'s config' -r -F
complete -c mainstay -n "__fish_mainstay_using_subcommand join" -s h -l help -d 'Print help'
complete -c mainstay -n "__fish_mainstay_using_subcommand fence" -l socket -d 'The agent\'s control socket; else the one of the config' -r -F
complete -c mainstay -n "__fish_mainstay_using_subcommand fence" -l config -d 'This host\'s config: what to fence' -r -F
complete -c mainstay -n "__fish_mainstay_using_subcommand fence" -l if-lapsed -d 'Only where no agent runs, and this host\'s lease has lapsed (for ExecStopPost)'
complete -c mainstay -n "__fish_mainstay_using_subcommand fence" -l if-held -d 'Only where no agent runs, and this host held a lease (for ExecStopPost)'
complete -c mainstay -n "__fish_mainstay_using_subcommand fence" -s h -l help -d 'Print help'
complete -c mainstay -n "__fish_mainstay_using_subcommand init" -l name -d 'This node\'s name; else the host\'s' -r
complete -c mainstay -n "__fish_mainstay_using_subcommand init" -l address -d 'Where peers reach this node\'s agent' -r
complete -c mainstay -n "__fish_mainstay_using_subcommand init" -l cluster -d 'The cluster\'s name' -r
complete -c mainstay -n "__fish_mainstay_using_subcommand init" -l members -d 'All first nodes of a new cluster, this one included' -r
complete -c mainstay -n "__fish_mainstay_using_subcommand init" -l join -d 'Running agents, instead of --members, whose cluster takes this node in' -r
complete -c mainstay -n "__fish_mainstay_using_subcommand init" -l key-file -d 'The cluster\'s key to copy; else the one in place, or a new one' -r -F
complete -c mainstay -n "__fish_mainstay_using_subcommand init" -l group -d 'The group\'s name: what Sentinel clients ask for' -r
complete -c mainstay -n "__fish_mainstay_using_subcommand init" -l redis -d 'How the agent reaches this host\'s instance; else 127.0.0.1:6379' -r
complete -c mainstay -n "__fish_mainstay_using_subcommand init" -l announce -d 'Where others reach the instance; else --address with its port' -r
complete -c mainstay -n "__fish_mainstay_using_subcommand init" -l redis-unit -d 'The instance\'s unit; else redis-server or valkey-server' -r
complete -c mainstay -n "__fish_mainstay_using_subcommand init" -l vip -d 'The floating address with the length of its subnet\'s prefix' -r
complete -c mainstay -n "__fish_mainstay_using_subcommand init" -l interface -d 'The interface that carries the VIP; else the one of --address' -r
complete -c mainstay -n "__fish_mainstay_using_subcommand init" -l priority -d 'Higher is preferred among equals; 0 is never promoted' -r
complete -c mainstay -n "__fish_mainstay_using_subcommand init" -l durability -d '`quorum` promotes nobody without proof that nothing is lost' -r
complete -c mainstay -n "__fish_mainstay_using_subcommand init" -l redis-password-file -d 'The instance\'s password to copy; else the one in place is kept' -r -F
complete -c mainstay -n "__fish_mainstay_using_subcommand init" -l redis-bind -d 'What the instance binds' -r
complete -c mainstay -n "__fish_mainstay_using_subcommand init" -l sentinel -d 'Where Sentinel clients connect, such as 0.0.0.0:26379' -r
complete -c mainstay -n "__fish_mainstay_using_subcommand init" -l http -d 'Where metrics and the status page are served, such as 127.0.0.1:7480' -r
complete -c mainstay -n "__fish_mainstay_using_subcommand init" -l root -d 'Work below this directory instead of /' -r -F
complete -c mainstay -n "__fish_mainstay_using_subcommand init" -l witness -d 'This node has no instance: it is a guardian alone'
complete -c mainstay -n "__fish_mainstay_using_subcommand init" -l no-vip -d 'No floating address: clients find the primary through Sentinel alone'
complete -c mainstay -n "__fish_mainstay_using_subcommand init" -l new-redis-password -d 'Make a new password for the group\'s instances'
complete -c mainstay -n "__fish_mainstay_using_subcommand init" -l no-redis-password -d 'The instances take everybody who reaches them'
complete -c mainstay -n "__fish_mainstay_using_subcommand init" -l remove -d 'Take everything back that an earlier run wrote'
complete -c mainstay -n "__fish_mainstay_using_subcommand init" -l instance-only -d 'Leave config, key and password as they are; only the instance\'s part'
complete -c mainstay -n "__fish_mainstay_using_subcommand init" -l force -d 'Overwrite, or remove, edited files too; a copy of each is kept'
complete -c mainstay -n "__fish_mainstay_using_subcommand init" -l dry-run -d 'Print what would be written, and write nothing'
complete -c mainstay -n "__fish_mainstay_using_subcommand init" -l now -d 'Do the rest as well: restart the instance sealed, start the agent'
complete -c mainstay -n "__fish_mainstay_using_subcommand init" -l yes -d 'Do not ask; what is missing is an error'
complete -c mainstay -n "__fish_mainstay_using_subcommand init" -s h -l help -d 'Print help'
complete -c mainstay -n "__fish_mainstay_using_subcommand events" -l group -d 'Only this group' -r
complete -c mainstay -n "__fish_mainstay_using_subcommand events" -l socket -d 'The agent\'s control socket; else the one of --config, else /run/mainstay/mainstay.sock' -r -F
complete -c mainstay -n "__fish_mainstay_using_subcommand events" -l config -d 'The config file that names the control socket' -r -F
complete -c mainstay -n "__fish_mainstay_using_subcommand events" -l follow -d 'Go on with what happens from now, until Ctrl-C'
complete -c mainstay -n "__fish_mainstay_using_subcommand events" -l json -d 'As JSON, one object a line'
complete -c mainstay -n "__fish_mainstay_using_subcommand events" -l all -d 'Also what is many and says little by itself'
complete -c mainstay -n "__fish_mainstay_using_subcommand events" -s h -l help -d 'Print help'
complete -c mainstay -n "__fish_mainstay_using_subcommand release" -l group -d 'The instance\'s group; else every group of this host' -r
complete -c mainstay -n "__fish_mainstay_using_subcommand release" -l unit -d 'Or the instance\'s unit' -r
complete -c mainstay -n "__fish_mainstay_using_subcommand release" -l socket -d 'The agent\'s control socket; else the one of --config, else /run/mainstay/mainstay.sock' -r -F
complete -c mainstay -n "__fish_mainstay_using_subcommand release" -l config -d 'The config file that names the control socket' -r -F
complete -c mainstay -n "__fish_mainstay_using_subcommand release" -s h -l help -d 'Print help'
complete -c mainstay -n "__fish_mainstay_using_subcommand unit-request" -l config -d 'The config that names the units' -r -F
complete -c mainstay -n "__fish_mainstay_using_subcommand unit-request" -s h -l help -d 'Print help'
complete -c mainstay -n "__fish_mainstay_using_subcommand notify-event" -l config -d 'The config that names the command' -r -F
complete -c mainstay -n "__fish_mainstay_using_subcommand notify-event" -s h -l help -d 'Print help'
complete -c mainstay -n "__fish_mainstay_using_subcommand keygen" -s h -l help -d 'Print help'
complete -c mainstay -n "__fish_mainstay_using_subcommand import-sentinel" -l address -d 'The address at which other hosts reach this one, where the file does not tell' -r
complete -c mainstay -n "__fish_mainstay_using_subcommand import-sentinel" -s h -l help -d 'Print help'
complete -c mainstay -n "__fish_mainstay_using_subcommand help; and not __fish_seen_subcommand_from run status switchover failover pause resume bootstrap members leave join fence init events release unit-request notify-event keygen import-sentinel help" -f -a "run" -d 'Run the agent (what the systemd unit starts)'
complete -c mainstay -n "__fish_mainstay_using_subcommand help; and not __fish_seen_subcommand_from run status switchover failover pause resume bootstrap members leave join fence init events release unit-request notify-event keygen import-sentinel help" -f -a "status" -d 'Show every group and node as this node sees them'
complete -c mainstay -n "__fish_mainstay_using_subcommand help; and not __fish_seen_subcommand_from run status switchover failover pause resume bootstrap members leave join fence init events release unit-request notify-event keygen import-sentinel help" -f -a "switchover" -d 'Hand the primary over to another node without losing a write; waits for the end'
complete -c mainstay -n "__fish_mainstay_using_subcommand help; and not __fish_seen_subcommand_from run status switchover failover pause resume bootstrap members leave join fence init events release unit-request notify-event keygen import-sentinel help" -f -a "failover" -d 'Promote a node without proof that nothing is lost: says what may be lost, and asks'
complete -c mainstay -n "__fish_mainstay_using_subcommand help; and not __fish_seen_subcommand_from run status switchover failover pause resume bootstrap members leave join fence init events release unit-request notify-event keygen import-sentinel help" -f -a "pause" -d 'Stop automatic promotion for a while, in the whole cluster'
complete -c mainstay -n "__fish_mainstay_using_subcommand help; and not __fish_seen_subcommand_from run status switchover failover pause resume bootstrap members leave join fence init events release unit-request notify-event keygen import-sentinel help" -f -a "resume" -d 'Allow automatic promotion again'
complete -c mainstay -n "__fish_mainstay_using_subcommand help; and not __fish_seen_subcommand_from run status switchover failover pause resume bootstrap members leave join fence init events release unit-request notify-event keygen import-sentinel help" -f -a "bootstrap" -d 'Say whose data is the group\'s, where its members hold several; the others\' is given up'
complete -c mainstay -n "__fish_mainstay_using_subcommand help; and not __fish_seen_subcommand_from run status switchover failover pause resume bootstrap members leave join fence init events release unit-request notify-event keygen import-sentinel help" -f -a "members" -d 'List the nodes of the cluster'
complete -c mainstay -n "__fish_mainstay_using_subcommand help; and not __fish_seen_subcommand_from run status switchover failover pause resume bootstrap members leave join fence init events release unit-request notify-event keygen import-sentinel help" -f -a "leave" -d 'Take a node out of the cluster for good'
complete -c mainstay -n "__fish_mainstay_using_subcommand help; and not __fish_seen_subcommand_from run status switchover failover pause resume bootstrap members leave join fence init events release unit-request notify-event keygen import-sentinel help" -f -a "join" -d 'Drop this node\'s membership in a cluster that went on without it, and join anew'
complete -c mainstay -n "__fish_mainstay_using_subcommand help; and not __fish_seen_subcommand_from run status switchover failover pause resume bootstrap members leave join fence init events release unit-request notify-event keygen import-sentinel help" -f -a "fence" -d 'Stop serving on this host now: seal its instances and drop its VIPs, agent running or not'
complete -c mainstay -n "__fish_mainstay_using_subcommand help; and not __fish_seen_subcommand_from run status switchover failover pause resume bootstrap members leave join fence init events release unit-request notify-event keygen import-sentinel help" -f -a "init" -d 'Write config, key, Redis settings and drop-in of this host, or remove them'
complete -c mainstay -n "__fish_mainstay_using_subcommand help; and not __fish_seen_subcommand_from run status switchover failover pause resume bootstrap members leave join fence init events release unit-request notify-event keygen import-sentinel help" -f -a "events" -d 'Show what happened, from this host\'s journal or the replicated history'
complete -c mainstay -n "__fish_mainstay_using_subcommand help; and not __fish_seen_subcommand_from run status switchover failover pause resume bootstrap members leave join fence init events release unit-request notify-event keygen import-sentinel help" -f -a "release" -d 'Hand over what an instance serves before it is stopped (for ExecStop)'
complete -c mainstay -n "__fish_mainstay_using_subcommand help; and not __fish_seen_subcommand_from run status switchover failover pause resume bootstrap members leave join fence init events release unit-request notify-event keygen import-sentinel help" -f -a "unit-request" -d 'Serve one request of the agent for a Redis unit (what mainstay-unit@.service runs, as root)'
complete -c mainstay -n "__fish_mainstay_using_subcommand help; and not __fish_seen_subcommand_from run status switchover failover pause resume bootstrap members leave join fence init events release unit-request notify-event keygen import-sentinel help" -f -a "notify-event" -d 'Run the notify command with one event from stdin (what mainstay-notify@.service runs)'
complete -c mainstay -n "__fish_mainstay_using_subcommand help; and not __fish_seen_subcommand_from run status switchover failover pause resume bootstrap members leave join fence init events release unit-request notify-event keygen import-sentinel help" -f -a "keygen" -d 'Print a new cluster key'
complete -c mainstay -n "__fish_mainstay_using_subcommand help; and not __fish_seen_subcommand_from run status switchover failover pause resume bootstrap members leave join fence init events release unit-request notify-event keygen import-sentinel help" -f -a "import-sentinel" -d 'Print a config made of a sentinel.conf, and on stderr what cannot be carried over'
complete -c mainstay -n "__fish_mainstay_using_subcommand help; and not __fish_seen_subcommand_from run status switchover failover pause resume bootstrap members leave join fence init events release unit-request notify-event keygen import-sentinel help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
