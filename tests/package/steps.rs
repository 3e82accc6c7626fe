//! The steps of the story, in the order in which they happen to a user.

use std::time::{Duration, Instant};

use crate::deb::{NEWER, version};
use crate::hub::{VIP, service};
use crate::lab::{ms, secs, wait_for};
use crate::setup;
use crate::story::{Price, Story};
use crate::trio::{SOURCE, Trio};

/// Boot, installation, configuration, start.
pub fn arrive(story: &mut Story) {
    let booted = story.trio.all_on();
    story.say("boot", format!("three containers in {} ms", booted.as_millis()));
    story.trio.everywhere(SOURCE);
    installing_changes_nothing(story);
    let begun = Instant::now();
    let server = story.trio.release.server;
    story.trio.everywhere(&format!("apt-get -q install -y mainstay {server}"));
    let installed = begun.elapsed();
    setup::write(&mut story.trio);
    story.trio.everywhere("systemctl enable --now mainstay");
    let primary = wait_for("service at the floating address", secs(60), || story.trio.primary_now());
    let serving = begun.elapsed();
    story.trio.wait_healthy(secs(60));
    let healthy = begun.elapsed();
    assert_eq!(story.trio.vip_holders(), [primary]);
    story.say(
        "install, set up, start",
        format!(
            "apt {} ms, n{primary} serves after {} ms, healthy after {} ms",
            installed.as_millis(),
            serving.as_millis(),
            healthy.as_millis()
        ),
    );
    footprint(story, primary);
}

/// On a host with a Redis at work: the package comes, Redis notices nothing, and nothing runs.
fn installing_changes_nothing(story: &mut Story) {
    let server = story.trio.release.server;
    let machine = story.trio.of(1);
    machine.sh(&format!("apt-get -q install -y {server}"));
    let look = format!(
        "systemctl show -p MainPID -p ActiveState {server}; find /etc/redis /etc/valkey -type f 2>/dev/null | sort | \
         xargs sha256sum; ls /etc/systemd/system /etc/systemd/system/*.d 2>/dev/null"
    );
    let before = machine.sh(&look);
    assert!(before.contains("ActiveState=active"), "{before}");
    machine.sh("apt-get -q install -y /srv/mainstay/mainstay_*.deb");
    assert_eq!(machine.sh(&look), before, "installing changed something of Redis");
    assert_eq!(machine.sh("systemctl is-enabled mainstay || true"), "disabled");
    assert_eq!(machine.sh("systemctl is-active mainstay || true"), "inactive");
    assert_eq!(machine.sh("stat -c '%U:%G %a' /etc/mainstay"), "root:mainstay 750");
    // The example is no config: the agent says so once, and is not started again and again.
    assert!(!machine.holds("systemctl start mainstay"));
    let state = machine.sh("systemctl show -p NRestarts -p ExecMainStatus mainstay");
    assert_eq!(state, "NRestarts=0\nExecMainStatus=78", "the example started");
    let said = machine.sh("journalctl -q --no-pager -u mainstay -o cat");
    assert!(said.contains("/etc/mainstay/mainstay.toml"), "{said}");
    machine.sh("systemctl reset-failed mainstay");
    machine.sh("apt-get -q install -y --reinstall mainstay");
}

fn footprint(story: &mut Story, primary: u8) {
    let machine = story.trio.of(primary);
    let rss = machine.sh("ps -o rss= -p $(systemctl show -p MainPID --value mainstay)");
    let size = machine.sh("dpkg-query -W -f '${Installed-Size}' mainstay");
    let how = machine.sh("chrt -p $(systemctl show -p MainPID --value mainstay) | tr '\\n' ' '");
    let score = machine.sh("systemd-analyze security mainstay --no-pager | tail -n 1");
    assert!(how.contains("SCHED_RR"), "{how}");
    let (rss, size): (u64, u64) = (rss.trim().parse().expect("kB"), size.trim().parse().expect("kB"));
    assert!(rss < 32_000, "the agent holds {rss} kB");
    story.say("footprint", format!("RSS {rss} kB, installed {size} kB, {}", score.trim_start_matches(['→', ' '])));
}

/// What breaks by itself.
pub fn faults(story: &mut Story) {
    let server = story.trio.release.server;
    story.step("redis killed", &Price::fault(secs(3)), |trio, primary| {
        trio.of(primary).sh(&format!("systemctl kill -s KILL {server}"));
        trio.wait_new_primary(primary, secs(10));
        String::new()
    });
    story.step("agent killed", &Price::planned(ms(300), 0), |trio, primary| {
        let before = main_pid(trio, primary);
        trio.of(primary).sh("systemctl kill -s KILL mainstay");
        let back = restarted(trio, primary, &before, secs(5));
        format!("the agent is back after {} ms", back.as_millis())
    });
    story.step("agent frozen", &Price::fault(secs(5)), |trio, primary| {
        let before = main_pid(trio, primary);
        trio.of(primary).sh("systemctl kill -s STOP mainstay");
        let back = restarted(trio, primary, &before, secs(15));
        let watchdog = trio.of(primary).sh("journalctl -q --no-pager -u mainstay | grep -c 'Watchdog timeout'");
        assert_ne!(watchdog, "0");
        format!("the watchdog has it back after {} ms", back.as_millis())
    });
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
    upgrade(story);
    downgrade(story);
    story.step("host switched off and on", &Price::planned(secs(1), 1), |trio, primary| {
        let took = trio.of_mut(primary).power_off();
        trio.of_mut(primary).on();
        trio.of(primary).booted();
        format!("off in {} ms", took.as_millis())
    });
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
    machine.sh("apt-get -q update; cp -a /var/lib/mainstay/identity /root/identity");
    machine.sh("sed -i 's/\"schema\": *[0-9]*/\"schema\": 99/' /var/lib/mainstay/identity");
    let downgrade = format!("apt-get -q install -y --allow-downgrades mainstay={}", version());
    let said = machine.sh_output(&downgrade, secs(60)).expect("apt");
    let text = String::from_utf8_lossy(&said.stderr).into_owned() + &String::from_utf8_lossy(&said.stdout);
    assert!(!said.status.success(), "{text}");
    assert!(text.contains("its schema is 99"), "{text}");
    assert_eq!(machine.sh("dpkg-query -W -f '${Version} ${Status}' mainstay"), format!("{NEWER} install ok installed"));
    machine.sh("mv /root/identity /var/lib/mainstay/identity");
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
        let late = (1..=3).find(|no| *no != primary).expect("another");
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

/// The package goes, and Redis stays.
pub fn leave(story: &mut Story) {
    let server = story.trio.release.server;
    let primary = story.trio.wait_healthy(secs(30));
    let gone = (1..=3).find(|no| *no != primary).expect("another");
    let machine = story.trio.of(gone);
    let pid = machine.sh(&format!("systemctl show -p MainPID --value {server}"));
    machine.sh("apt-get -q purge -y mainstay");
    assert_eq!(machine.sh(&format!("systemctl show -p MainPID --value {server}")), pid, "Redis was restarted");
    let left = machine.sh(
        "ls -d /etc/mainstay /var/lib/mainstay /run/mainstay* /etc/systemd/system/*/*mainstay* 2>/dev/null; \
         systemctl list-unit-files --no-legend 'mainstay*'; systemctl list-units --all --no-legend 'mainstay*'; \
         grep -rl mainstay /etc/redis /etc/valkey 2>/dev/null; dpkg -l mainstay 2>/dev/null | grep -c ^ii; true",
    );
    assert_eq!(left, "0", "left behind");
    assert!(story.trio.client(service()).is_ok(), "the others go on");
    story.say("purge", "nothing of it left, Redis is the same process".to_owned());
}
