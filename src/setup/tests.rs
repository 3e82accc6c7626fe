//! A host below a directory: what is written, what is kept, and that all of it can be taken back.

use super::files::Done;
use super::{CONFIG, InitArgs, KEY, MANIFEST, PASSWORD, SetupError, plan, remove, write};
use clap::Parser;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

#[derive(Parser)]
struct Line {
    #[command(flatten)]
    init: InitArgs,
}

const UNIT: &str = "[Service]\nType=notify\nUser=redis\nGroup=redis\n\
    ExecStart=/usr/bin/redis-server /etc/redis/redis.conf --supervised systemd --daemonize no\n";
const DROP_IN: &str = "/etc/systemd/system/redis-server.service.d/zz-mainstay.conf";
const SETTINGS: &str = "/etc/redis/mainstay.conf";

struct Host(tempfile::TempDir);

impl Host {
    fn new() -> Self {
        let host = Self(tempfile::tempdir().expect("a directory"));
        host.put("/usr/lib/systemd/system/redis-server.service", UNIT);
        host
    }

    fn at(&self, path: &str) -> PathBuf {
        self.0.path().join(path.trim_start_matches('/'))
    }

    fn put(&self, path: &str, text: &str) {
        fs::create_dir_all(self.at(path).parent().expect("a directory")).expect("made");
        fs::write(self.at(path), text).expect("written");
    }

    fn read(&self, path: &str) -> String {
        fs::read_to_string(self.at(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
    }

    fn args(&self, more: &[&str]) -> InitArgs {
        let root = self.0.path().to_str().expect("text");
        let usual = [
            "init",
            "--yes",
            "--root",
            root,
            "--name",
            "n1",
            "--address",
            "10.0.0.1:7400",
            "--cluster",
            "edge",
            "--members",
            "n1=10.0.0.1:7400,n2=10.0.0.2:7400,n3=10.0.0.3:7400",
        ];
        Line::parse_from(usual.iter().chain(more)).init
    }

    fn init(&self, more: &[&str]) -> Result<Vec<Done>, SetupError> {
        let args = self.args(more);
        write(&plan(&args)?, &args.root, args.force)
    }
}

const VIP: [&str; 4] = ["--vip", "10.0.0.100/24", "--interface", "eth0"];

fn with<'a>(more: &[&'a str]) -> Vec<&'a str> {
    VIP.iter().copied().chain(more.iter().copied()).collect()
}

#[test]
fn a_first_host_gets_its_config_key_settings_and_drop_in() {
    let host = Host::new();
    host.init(&with(&["--new-redis-password", "--sentinel", "0.0.0.0:26379"])).expect("written");
    let (config, warnings) = crate::config::parse(&host.read(CONFIG), CONFIG).expect("a config");
    assert!(warnings.is_empty(), "{warnings:?}");
    assert_eq!(config.groups[0].announce.to_string(), "10.0.0.1:6379");
    assert_eq!(config.groups[0].unit.as_deref(), Some("redis-server.service"));
    let password = host.read(PASSWORD);
    assert!(password.trim_end().len() >= 32, "{password:?}");
    assert!(host.read(SETTINGS).contains(&format!("requirepass \"{}\"\n", password.trim_end())));
    assert!(
        host.read(DROP_IN)
            .contains("--include /etc/redis/mainstay.conf --replicaof 127.0.0.1 1 --replica-read-only yes\n")
    );
    for (path, mode) in [(CONFIG, 0o640), (KEY, 0o640), (PASSWORD, 0o640), (SETTINGS, 0o640), (DROP_IN, 0o644)] {
        let found = fs::metadata(host.at(path)).expect("there").permissions().mode() & 0o7777;
        assert_eq!(found, mode, "{path}");
    }
    crate::wire::parse_key_file(&host.read(KEY)).expect("a key");
}

#[test]
fn a_second_run_changes_nothing_and_another_answer_replaces_what_is_as_written() {
    let host = Host::new();
    host.init(&with(&["--new-redis-password"])).expect("written");
    let (key, password) = (host.read(KEY), host.read(PASSWORD));
    let again = host.init(&VIP).expect("written");
    assert!(again.iter().all(|done| matches!(done, Done::Unchanged(_) | Done::NoGroup(..))), "{again:?}");
    host.init(&["--no-vip"]).expect("written");
    assert!(!host.read(CONFIG).contains("vip"));
    assert_eq!((host.read(KEY), host.read(PASSWORD)), (key, password), "what the other hosts have too is kept");
}

#[test]
fn an_edited_file_is_named_and_nothing_is_written() {
    let host = Host::new();
    host.init(&with(&["--new-redis-password"])).expect("written");
    let edited = format!("{}maxmemory 1gb\n", host.read(SETTINGS));
    host.put(SETTINGS, &edited);
    let before = host.read(CONFIG);
    match host.init(&["--no-vip"]) {
        Err(SetupError::Edited { path, .. }) => assert_eq!(path, host.at(SETTINGS)),
        other => panic!("{other:?}"),
    }
    assert_eq!((host.read(CONFIG), host.read(SETTINGS)), (before, edited.clone()));
    let done = host.init(&["--no-vip", "--force"]).expect("written");
    assert!(done.iter().any(|done| matches!(done, Done::Overwritten(path, _) if *path == host.at(SETTINGS))));
    assert_eq!(host.read("/etc/redis/mainstay.conf.before-init"), edited);
}

#[test]
fn a_config_of_somebody_else_is_not_overwritten_but_an_example_is() {
    let host = Host::new();
    host.put(CONFIG, "# [node]\n# name = \"n1\"\n");
    host.init(&with(&["--no-redis-password"])).expect("an example says nothing");
    let other = Host::new();
    other.put(CONFIG, "[node]\nname = \"theirs\"\n");
    assert!(matches!(other.init(&with(&["--no-redis-password"])), Err(SetupError::Edited { .. })));
    assert!(!other.at(DROP_IN).exists(), "all or nothing");
}

#[test]
fn all_of_it_is_taken_back_but_what_was_edited() {
    let host = Host::new();
    host.init(&with(&["--new-redis-password"])).expect("written");
    host.put(SETTINGS, "maxmemory 1gb\n");
    let done = remove(host.0.path(), false, false, || {}).expect("removed");
    assert!(done.contains(&Done::Left(host.at(SETTINGS))), "{done:?}");
    for path in [CONFIG, KEY, PASSWORD, DROP_IN] {
        assert!(!host.at(path).exists(), "{path} is left");
    }
    assert!(!host.at(DROP_IN).parent().expect("a directory").exists(), "its empty directory goes too");
    remove(host.0.path(), true, false, || {}).expect("removed");
    assert!(!host.at(SETTINGS).exists() && !host.at(MANIFEST).exists());
    assert!(host.at("/usr/lib/systemd/system/redis-server.service").exists(), "never the package's own");
}

/// A package that is removed, and not purged, leaves what only an operator has; and Redis can start at every moment.
#[test]
fn the_instance_is_set_free_before_its_settings_go_and_the_rest_stays() {
    let host = Host::new();
    host.init(&with(&["--new-redis-password"])).expect("written");
    let mut between = false;
    let reload = || between = !host.at(DROP_IN).exists() && host.at(SETTINGS).exists();
    remove(host.0.path(), true, true, reload).expect("removed");
    assert!(between, "the service manager reads anew after the drop-in, and before the settings that it includes");
    assert!(!host.at(SETTINGS).exists());
    for path in [CONFIG, KEY, PASSWORD, MANIFEST] {
        assert!(host.at(path).exists(), "{path} is gone");
    }
    remove(host.0.path(), true, false, || panic!("there is no drop-in any more")).expect("removed");
    assert!(!host.at(CONFIG).exists() && !host.at(MANIFEST).exists());
}

#[test]
fn what_is_not_known_is_named_with_its_flag() {
    let host = Host::new();
    let said = |more: &[&str]| match host.init(more) {
        Err(SetupError::Wanted { what, remedy }) => format!("{what}; {remedy}"),
        other => panic!("{other:?}"),
    };
    assert!(said(&VIP).contains("--no-redis-password"));
    assert!(said(&["--no-redis-password"]).contains("--no-vip"));
    host.put("/usr/lib/systemd/system/valkey-server.service", UNIT);
    assert!(said(&with(&["--no-redis-password"])).contains("redis-server.service and valkey-server.service"));
    assert!(!host.at(CONFIG).exists());
}

#[test]
fn an_access_list_that_would_rule_over_the_password_is_named() {
    let host = Host::new();
    let said = || plan(&host.args(&with(&["--new-redis-password"]))).expect("a plan").next.join("\n");
    host.put("/etc/redis/redis.conf", "bind 127.0.0.1\n");
    assert!(!said().contains("user default"));
    host.put("/etc/redis/redis.conf", "bind 127.0.0.1\nuser default on #0123 ~* &* +@all\n");
    assert!(said().contains("`user default ...` of /etc/redis/redis.conf"), "{}", said());
}

/// After the package was removed and installed again, with a config that has been edited since it was written.
#[test]
fn the_instances_part_alone_follows_the_config_that_is_there() {
    let host = Host::new();
    host.init(&with(&["--new-redis-password"])).expect("written");
    let (drop_in, settings) = (host.read(DROP_IN), host.read(SETTINGS));
    host.put(CONFIG, &format!("{}# edited\n", host.read(CONFIG)));
    remove(host.0.path(), true, true, || {}).expect("removed");
    let bare = |more: &[&str]| {
        let root = host.0.path().to_str().expect("text");
        let args = Line::parse_from(["init", "--instance-only", "--root", root].iter().chain(more)).init;
        write(&plan(&args)?, &args.root, args.force)
    };
    let done = bare(&[]).expect("written");
    assert_eq!(done.iter().filter(|done| matches!(done, Done::Written(_))).count(), 2, "{done:?}");
    assert_eq!((host.read(DROP_IN), host.read(SETTINGS)), (drop_in, settings));
    assert!(host.read(CONFIG).ends_with("# edited\n"));
    host.put(CONFIG, "[node\n");
    assert!(matches!(bare(&[]), Err(SetupError::Config { .. })));
    fs::remove_file(host.at(CONFIG)).expect("removed");
    assert!(matches!(bare(&[]), Err(SetupError::Io { .. })));
}

/// An operator's own command is what is repeated; one that would be read after ours is named.
#[test]
fn what_other_drop_ins_say_is_kept_and_never_overruled_by_in_silence() {
    let host = Host::new();
    let beside = |name: &str| format!("/etc/systemd/system/redis-server.service.d/{name}");
    host.put(&beside("override.conf"), "[Service]\nExecStart=\nExecStart=/opt/redis /srv/redis/own.conf\n");
    host.put("/run/systemd/system/redis-server.service.d/override.conf", "[Service]\nExecStart=/x /y.conf\n");
    host.init(&with(&["--no-redis-password"])).expect("written");
    let command = "ExecStart=\nExecStart=/opt/redis /srv/redis/own.conf --include /srv/redis/mainstay.conf --replicaof";
    assert!(host.read(DROP_IN).contains(command), "{}", host.read(DROP_IN));
    host.put(&beside("zzz.conf"), "[Service]\nLimitNOFILE=1\n");
    host.init(&with(&["--no-redis-password"])).expect("it has no command");
    host.put(&beside("zzz.conf"), "[Service]\nExecStart=\nExecStart=/opt/redis /srv/redis/own.conf\n");
    match host.init(&with(&["--no-redis-password"])) {
        Err(SetupError::Wanted { what, .. }) => {
            assert!(what.contains("zzz.conf is read after zz-mainstay.conf"), "{what}")
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_witness_gets_no_instance() {
    let host = Host::new();
    host.init(&["--witness"]).expect("written");
    let (config, _) = crate::config::parse(&host.read(CONFIG), CONFIG).expect("a config");
    assert!(config.groups.is_empty());
    assert!(!host.at(DROP_IN).exists() && !host.at(PASSWORD).exists());
    let previewed = plan(&host.args(&["--witness"])).expect("a plan").preview();
    assert!(previewed.contains("==> /etc/mainstay/cluster.key") && !previewed.contains(host.read(KEY).trim()));
    assert!(Path::new(KEY).is_absolute());
}
