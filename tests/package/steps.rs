//! What happens to hosts that have it installed, in the order of the story.

use std::time::{Duration, Instant};

use crate::deb::{NEWER, version};
use crate::hub::{VIP, service};
use crate::lab::{ms, secs, wait_for};
use crate::story::{Price, Story};
use crate::trio::Trio;

/// What breaks by itself.
pub fn faults(story: &mut Story) {
    let server = story.trio.release.server;
    story.step("redis killed", &Price::fault(secs(3)), |trio, primary| {
        trio.of(primary).sh(&format!("systemctl kill -s KILL {server}"));
        let now = trio.wait_new_primary(primary, secs(10));
        wait_for("cause in the history", secs(10), || match cause(trio, now) {
            text if text.contains("SIGKILL") && text.contains("its last lines: ") => Ok(()),
            other => Err(other),
        });
        String::new()
    });
    agent_killed(story);
    story.step("agent frozen", &Price::fault(secs(5)), |trio, primary| {
        let before = main_pid(trio, primary);
        trio.of(primary).sh("systemctl kill -s STOP mainstay");
        let back = restarted(trio, primary, &before, secs(15));
        let watchdog = trio.of(primary).sh("journalctl -q --no-pager -u mainstay | grep -c 'Watchdog timeout'");
        assert_ne!(watchdog, "0");
        format!("the watchdog has it back after {} ms", back.as_millis())
    });
    broken_config(story);
}

/// An edit that went wrong, found when the agent is started again: it stays down, and its host must not go on serving.
fn broken_config(story: &mut Story) {
    story.step("agent killed, config broken", &Price::fault(secs(3)), |trio, primary| {
        let machine = trio.of(primary);
        machine.sh("cp -a /etc/mainstay/mainstay.toml /var/lib/whole.toml; echo '[broken' >>/etc/mainstay/mainstay.toml");
        machine.sh("systemctl kill -s KILL mainstay");
        trio.wait_new_primary(primary, secs(10));
        assert!(!trio.vip_holders().contains(&primary), "it keeps the floating address");
        let said = machine.sh("journalctl -q --no-pager -o cat -u mainstay -n 60");
        assert!(said.contains("going by /run/mainstay/"), "{said}");
        let state = machine.sh("systemctl show -p ActiveState -p ExecMainStatus mainstay");
        assert_eq!(state, "ExecMainStatus=78\nActiveState=failed");
        machine.sh("mv /var/lib/whole.toml /etc/mainstay/mainstay.toml; systemctl reset-failed mainstay; systemctl start mainstay");
        "fenced by the config that was read before".to_owned()
    });
}

/// Back within its lease it carries on, unfelt. Where this machine is too busy for that it is fenced and another serves,
/// so it has three tries.
fn agent_killed(story: &mut Story) {
    for attempt in 1..=3 {
        let changes = story.step("agent killed", &Price::planned(secs(1), 1), |trio, primary| {
            let before = main_pid(trio, primary);
            trio.of(primary).sh("systemctl kill -s KILL mainstay");
            let back = restarted(trio, primary, &before, secs(5));
            format!("the agent is back after {} ms", back.as_millis())
        });
        if changes == 0 {
            return;
        }
        assert!(attempt < 3, "a killed agent never came back within its lease");
    }
}

/// Why the primary last changed, as a machine's agent tells it.
fn cause(trio: &Trio, no: u8) -> String {
    let status = trio.status(no).unwrap_or_default();
    status["groups"][0]["changes"][0]["cause"].as_str().unwrap_or_default().to_owned()
}

fn main_pid(trio: &Trio, no: u8) -> String {
    trio.of(no).sh("systemctl show -p MainPID --value mainstay")
}

fn restarted(trio: &Trio, no: u8, before: &str, bound: Duration) -> Duration {
    let begun = Instant::now();
    wait_for("restart of the agent", bound, || match main_pid(trio, no) {
        now if now == before || now == "0" => Err(now),
        _ if !trio.of(no).holds("systemctl is-active -q mainstay") => Err("not ready".to_owned()),
        _ => Ok(()),
    });
    begun.elapsed()
}

/// What somebody does on purpose.
pub fn planned(story: &mut Story) {
    story.step("agent stopped", &Price::planned(secs(1), 1), |trio, primary| {
        let begun = Instant::now();
        trio.of(primary).sh("systemctl stop mainstay");
        let took = begun.elapsed();
        assert_ne!(trio.primary_now().expect("a primary"), primary, "stopped before it had handed over");
        trio.of(primary).sh("systemctl start mainstay");
        format!("the stop took {} ms", took.as_millis())
    });
    redis_restarted(story);
    redis_installed_anew(story);
    upgrade(story);
    downgrade(story);
    gone_and_back(story);
    story.step("host switched off and on", &Price::planned(secs(1), 1), |trio, primary| {
        let took = trio.of_mut(primary).power_off();
        trio.of_mut(primary).on();
        trio.of(primary).booted();
        format!("off in {} ms", took.as_millis())
    });
}

/// Redis itself is restarted, or stopped for a while: by somebody who need not know that there is an agent.
fn redis_restarted(story: &mut Story) {
    let server = story.trio.release.server;
    story.step("redis restarted", &Price::planned(secs(1), 1), |trio, primary| {
        let begun = Instant::now();
        trio.of(primary).sh(&format!("systemctl restart {server}"));
        format!("the restart took {} ms", begun.elapsed().as_millis())
    });
    story.step("replica stopped on purpose", &Price::planned(ms(500), 0), |trio, primary| {
        let replica = trio.of(other(primary));
        replica.sh(&format!("systemctl stop {server}"));
        std::thread::sleep(secs(3));
        assert_eq!(replica.sh(&format!("systemctl is-active {server} || true")), "inactive", "it was fought");
        replica.sh(&format!("systemctl start {server}"));
        String::new()
    });
    story.step("replica hangs", &Price::planned(ms(500), 0), |trio, primary| {
        let replica = trio.of(other(primary));
        let pid = format!("systemctl show -p MainPID --value {server}");
        let before = replica.sh(&pid);
        let agent = main_pid(trio, other(primary));
        assert!(
            replica.holds(&format!("grep -q hidepid=invisible /proc/{agent}/mountinfo")),
            "it sees others' processes"
        );
        let begun = Instant::now();
        replica.sh(&format!("systemctl kill -s STOP {server}"));
        // The agent may neither kill nor start it, and has it done.
        wait_for("another process", secs(20), || match replica.sh(&pid) {
            now if now == before || now == "0" => Err(now),
            _ => Ok(()),
        });
        format!("killed and started again after {} ms", begun.elapsed().as_millis())
    });
}

/// The instance has rewritten its own config, as a primary, and its package is upgraded beneath the drop-in: a restart as
/// any other, and it starts sealed as before.
fn redis_installed_anew(story: &mut Story) {
    let server = story.trio.release.server;
    story.step("redis's package anew", &Price::planned(secs(1), 1), |trio, primary| {
        let machine = trio.of(primary);
        let before = machine.sh(&format!("systemctl show -p MainPID --value {server}"));
        let mut client = trio.client((crate::hub::address(primary), 6379).into()).expect("the primary");
        assert_eq!(client.command(&["CONFIG", "REWRITE"]).expect("an answer").text(), "OK");
        machine.sh(&format!("apt-get -q install -y --reinstall {server}"));
        let unit = machine.sh(&format!("systemctl show -p MainPID -p ExecStart {server}"));
        assert!(!unit.contains(&format!("MainPID={before}\n")), "its package did not restart it: {unit}");
        assert!(unit.contains("--replicaof 127.0.0.1 1"), "the drop-in is gone: {unit}");
        String::new()
    });
}

/// The package is removed from a replica's host, and comes back.
fn gone_and_back(story: &mut Story) {
    story.step("removed and back", &Price::planned(ms(500), 0), |trio, primary| {
        let no = other(primary);
        let machine = trio.of(no);
        machine.sh("apt-get -q remove -y mainstay");
        machine.sh("apt-get -q install -y mainstay");
        let said = machine.sh("mainstay init --instance-only --now");
        assert!(said.contains("zz-mainstay.conf") && !said.contains("/etc/mainstay/"), "{said}");
        assert!(said.contains("systemctl restart "), "it was started by its package's own command: {said}");
        let again = machine.sh("mainstay init --instance-only --now");
        assert!(!again.contains("restart"), "all of it was as it should be: {again}");
        String::new()
    });
}

/// A machine that is not this one.
fn other(no: u8) -> u8 {
    no % 3 + 1
}

fn upgrade(story: &mut Story) {
    let newer = crate::deb::built().newer;
    story.trio.publish(&newer);
    story.step("upgrade, host by host", &Price::planned(secs(1), 3), |trio, _| {
        let mut took = Vec::new();
        for no in 1..=3 {
            let begun = Instant::now();
            trio.of(no).sh("apt-get -q update && apt-get -q install -y mainstay");
            took.push(begun.elapsed().as_millis().to_string());
            assert_eq!(trio.of(no).sh("dpkg-query -W -f '${Version}' mainstay"), NEWER);
            trio.wait_healthy(secs(30));
        }
        format!("{} ms", took.join(", "))
    });
}

/// A version that cannot read what a newer one wrote does not come onto the host.
fn downgrade(story: &mut Story) {
    if !story.wanted("downgrade") {
        return;
    }
    let old = crate::deb::built().deb;
    story.trio.publish(&old);
    let machine = story.trio.of(2);
    machine.sh("apt-get -q update; cp -a /var/lib/mainstay/identity /var/lib/identity.kept");
    machine.sh("sed -i 's/\"schema\": *[0-9]*/\"schema\": 99/' /var/lib/mainstay/identity");
    let downgrade = format!("apt-get -q install -y --allow-downgrades mainstay={}", version());
    let said = machine.sh_output(&downgrade, secs(60)).expect("apt");
    let text = String::from_utf8_lossy(&said.stderr).into_owned() + &String::from_utf8_lossy(&said.stdout);
    assert!(!said.status.success(), "{text}");
    assert!(text.contains("its schema is 99"), "{text}");
    assert_eq!(machine.sh("dpkg-query -W -f '${Version} ${Status}' mainstay"), format!("{NEWER} install ok installed"));
    machine.sh("mv /var/lib/identity.kept /var/lib/mainstay/identity");
    machine.sh(&downgrade);
    story.trio.wait_healthy(secs(30));
    story.say("downgrade", "refused while the database is newer, else as any other".to_owned());
}

/// All hosts lose power at once, and return.
pub fn power(story: &mut Story) {
    if !story.wanted("power cut") {
        return;
    }
    story.trio.wait_healthy(secs(30));
    let load = story.trio.load("cut");
    std::thread::sleep(secs(1));
    story.trio.machines.values_mut().for_each(crate::machine::Machine::power_cut);
    let history = load.stop();
    let begun = Instant::now();
    story.trio.machines.values_mut().for_each(crate::machine::Machine::on);
    let primary = wait_for("service after the power cut", secs(90), || story.trio.primary_now());
    let served = begun.elapsed();
    story.trio.wait_healthy(secs(60));
    let (lost, _) = story.trio.lost(&history);
    assert!(lost.is_empty(), "lost by the power cut: {lost:?}");
    let note = format!(
        "{} acknowledged writes, none lost; n{primary} serves {} ms after the power is back",
        history.acked(),
        served.as_millis()
    );
    story.say("power cut of all", note);
}

/// What else on the host is none of ours.
pub fn surroundings(story: &mut Story) {
    story.step("networkd restarted", &Price::planned(secs(1), 0), |trio, primary| {
        trio.of(primary).sh("systemctl restart systemd-networkd");
        std::thread::sleep(secs(2));
        assert_eq!(trio.vip_holders(), [primary], "{VIP} did not stay");
        String::new()
    });
    story.step("interface that comes late", &Price::planned(secs(1), 1), |trio, primary| {
        let late = other(primary);
        let machine = trio.of(late);
        machine.sh("sed -i 's/^interface = .*/interface = \"late0\"/' /etc/mainstay/mainstay.toml");
        machine.sh("systemctl restart mainstay");
        std::thread::sleep(secs(1));
        machine.sh("ip link add late0 link host0 type macvlan mode bridge && ip link set late0 up");
        trio.wait_healthy(secs(30));
        machine.sh(&format!("mainstay switchover --to n{late}"));
        assert_eq!(trio.vip_holders(), [late]);
        assert!(machine.holds(&format!("ip -o -4 addr show dev late0 | grep -qw {VIP}")));
        format!("n{late} serves on an interface that its agent waited for")
    });
}

/// What an operator reads: the journal with the catalog's words, the history, and what the notify command was told.
pub fn words(story: &mut Story) {
    let primary = story.trio.wait_healthy(secs(30));
    let machine = story.trio.of(primary);
    let explained = machine.sh("journalctl -q --no-pager -x -t mainstay -n 400 | grep '^░░' | sort -u | wc -l");
    assert_ne!(explained, "0", "no message is explained by the catalog");
    // Its clients are not to be served before its lease is.
    let pid = main_pid(&story.trio, primary);
    let policy = |thread: &str| {
        machine.sh(&format!(
        "for task in /proc/{pid}/task/*; do [ \"$(cat $task/comm)\" = {thread} ] && chrt -p ${{task##*/}}; done; true"
    ))
    };
    let (agent, clients) = (policy("mainstay"), policy("sentinel"));
    assert!(agent.contains("SCHED_RR") && clients.contains("SCHED_OTHER"), "{agent}; {clients}");
    let events = machine.sh("mainstay events");
    assert!(events.contains("primary is"), "{events}");
    // Whoever may write to the journal may write an event's id.
    let id = machine
        .sh("sed -n 's/^-- \\([0-9a-f]\\{32\\}\\)$/\\1/p' /usr/lib/systemd/catalog/mainstay.catalog | head -n 1");
    let forged = format!("printf 'MESSAGE_ID={id}\\nMESSAGE=%s\\nPRIORITY=4\\n' forged");
    machine.sh(&format!(
        "{forged}-by-nobody | runuser -u nobody -- logger --journald; {forged}-by-root | logger --journald"
    ));
    wait_for("entry of root's", secs(10), || match machine.sh("mainstay events --all") {
        events if events.contains("forged-by-root") => {
            assert!(!events.contains("forged-by-nobody"), "{events}");
            Ok(())
        }
        events => Err(events),
    });
    let told = machine.sh("journalctl -q --no-pager -o cat -u 'mainstay-notify@*'");
    assert!(told.contains("\"group\""), "the notify command was told nothing: {told}");
    assert!(told.contains("CapEff:\t0000000000000000"), "{told}");
    story.say("words", format!("{explained} explaining lines in the journal, {} events", events.lines().count()));
}

/// The package goes, and Redis stays, with its data and as its own package has it.
pub fn leave(story: &mut Story) {
    let server = story.trio.release.server;
    let primary = story.trio.wait_healthy(secs(30));
    let machine = story.trio.of(other(primary));
    let pid = format!("systemctl show -p MainPID --value {server}");
    let before = machine.sh(&pid);
    machine.sh("apt-get -q remove -y mainstay");
    let kept = "ls /etc/mainstay/mainstay.toml /etc/mainstay/cluster.key /etc/mainstay/redis.password | wc -l";
    assert_eq!(machine.sh(kept), "3", "a package that is removed leaves what only the operator has");
    machine.sh("apt-get -q purge -y mainstay");
    assert_eq!(machine.sh(&pid), before, "Redis was restarted");
    let left = machine.sh(
        "ls -d /etc/mainstay /var/lib/mainstay /run/mainstay* /etc/systemd/system/*/*mainstay* /usr/bin/mainstay \
         2>/dev/null; systemctl list-unit-files --no-legend 'mainstay*'; \
         systemctl list-units --all --no-legend 'mainstay*'; grep -rl mainstay /etc/redis /etc/valkey 2>/dev/null; true",
    );
    assert_eq!(left, "", "left behind");
    assert!(story.trio.client(service()).is_ok(), "the others go on");
    machine.sh(&format!("systemctl restart {server}"));
    let cli = if server == "valkey-server" { "valkey-cli" } else { "redis-cli" };
    let alone = machine.sh(&format!("{cli} info replication | grep ^role; {cli} dbsize; {cli} config get bind"));
    assert!(alone.starts_with("role:master") && alone.contains("127.0.0.1"), "{alone}");
    assert!(!alone.lines().any(|line| line == "0"), "its data is gone: {alone}");
    story.say(
        "purge",
        "nothing of it left; Redis is the same process, and as its package has it after a restart".into(),
    );
}
