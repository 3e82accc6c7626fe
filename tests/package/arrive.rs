//! The first steps: boot, installation beside a Redis at work, configuration, start; and what it costs to have it there.

use std::time::Instant;

use crate::lab::{secs, wait_for};
use crate::setup;
use crate::story::Story;
use crate::trio::SOURCE;

/// Boot, installation, configuration, start.
pub fn hosts(story: &mut Story) {
    let booted = story.trio.all_on();
    story.say("boot", format!("three containers in {} ms", booted.as_millis()));
    story.trio.everywhere(SOURCE);
    installing_changes_nothing(story);
    let begun = Instant::now();
    let server = story.trio.release.server;
    story.trio.everywhere(&format!("apt-get -q install -y mainstay {server}"));
    let installed = begun.elapsed();
    setup::hosts(&mut story.trio);
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
    setup::notify(&story.trio);
    let primary = story.trio.wait_healthy(secs(30));
    footprint(story, primary);
}

/// On a host with a Redis at work: the package comes, Redis notices nothing, and nothing runs.
fn installing_changes_nothing(story: &mut Story) {
    let server = story.trio.release.server;
    let machine = story.trio.of(1);
    machine.sh(&format!("apt-get -q install -y {server}"));
    let look = format!(
        "systemctl show -p MainPID -p ActiveState {server}; find /etc/redis /etc/valkey -type f 2>/dev/null | sort | \
         xargs sha256sum; ls /etc/systemd/system /etc/systemd/system/*.d 2>/dev/null; true"
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
    let verify = "systemd-analyze verify --man=no $(dpkg -L mainstay | grep '/systemd/system/.*[a-z@]\\.\\(service\\|socket\\)$') 2>&1";
    assert_eq!(machine.sh(verify), "", "systemd has something to say about the units");
    let (rss, size): (u64, u64) = (rss.trim().parse().expect("kB"), size.trim().parse().expect("kB"));
    assert!(rss < 32_000, "the agent holds {rss} kB");
    story.say("footprint", format!("RSS {rss} kB, installed {size} kB, {}", score.trim_start_matches(['→', ' '])));
}
