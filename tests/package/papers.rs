//! The package without installing it: what lintian says, how tight the sandbox is, that the units are sound, its size,
//! and that its version is the project's.

use std::process::Command;

use crate::deb::{built, version};
use crate::lab::{alone, root, run, secs};

/// The largest package.
const SIZE: u64 = 3 * 1024 * 1024;
/// The highest exposure that `systemd-analyze security` may give the agent's unit, in tenths.
const EXPOSURE: &str = "19";

#[test]
fn lintian_has_nothing_to_say_and_the_package_is_small() {
    let Some(_alone) = alone() else { return };
    let built = built();
    let mut lintian = Command::new("lintian");
    lintian.args(["--pedantic", "--allow-root", "--fail-on", "error,warning,info,pedantic"]).arg(&built.changes);
    let said = run(&mut lintian, secs(120));
    assert_eq!(said.trim(), "");
    let size = std::fs::metadata(&built.deb).expect("the package").len();
    println!("{} bytes: {}", size, built.deb.display());
    assert!(size <= SIZE, "{size} bytes");
}

#[test]
fn the_version_is_the_projects() {
    assert_eq!(version(), env!("CARGO_PKG_VERSION"), "debian/changelog and Cargo.toml");
}

/// By the machine's own systemd, without installing anything.
#[test]
fn the_sandbox_is_tight() {
    let Some(_alone) = alone() else { return };
    let mut analyze = Command::new("systemd-analyze");
    analyze.args(["security", "--no-pager", "--offline=true"]).arg(format!("--threshold={EXPOSURE}"));
    let said = run(analyze.arg(root().join("systemd/mainstay.service")), secs(30));
    println!("{}", said.lines().last().unwrap_or_default());
    // What it marks is what the unit's comment gives a reason for.
    let unit = std::fs::read_to_string(root().join("systemd/mainstay.service")).expect("the unit");
    for marked in said.lines().filter_map(|line| line.strip_prefix('✗')) {
        let name = marked.split_whitespace().next().unwrap_or_default();
        let setting = name.split(['=', ':']).next().unwrap_or_default();
        assert!(
            unit.contains(&format!("#   {setting}")) || unit.contains(&format!(", {setting}=")),
            "no reason for {name}"
        );
    }
}
