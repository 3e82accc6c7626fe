//! Real INFO texts, and texts that are not.

use super::*;
use proptest::prelude::*;

const PRIMARY: &str = include_str!("golden/redis-7.0-primary.txt");
const REPLICA: &str = include_str!("golden/redis-7.0-replica.txt");
const VALKEY: &str = include_str!("golden/valkey-8-replica.txt");

#[test]
fn a_redis_7_primary() {
    let info = Info::parse(PRIMARY).unwrap();
    assert_eq!((info.server, info.version.as_str()), (Flavor::Redis, "7.0.15"));
    assert_eq!((info.role, info.pid, info.tcp_port), (Role::Primary, 15732, 17911));
    assert_eq!(info.run_id, "bbeef5e5fdfb88480a3f1ad5faf2ba3354535b2d");
    assert_eq!((info.offset, info.second_offset, info.upstream.clone()), (157, None, None));
    assert_eq!((info.keys, info.connected_replicas), (4, 1));
    let row = ReplicaRow {
        ip: "127.0.0.1".into(),
        port: 17912,
        state: ReplicaState::Online,
        offset: 0,
        lag: Some(Duration::from_secs(1)),
    };
    assert_eq!(info.replicas, [row]);
    assert!(info.backlog_active && !info.is_sealed() && info.read_only.is_none());
    assert_eq!((info.backlog_size, info.backlog_histlen, info.maxclients), (1 << 20, 157, 10_000));
}

#[test]
fn a_redis_7_replica() {
    let info = Info::parse(REPLICA).unwrap();
    assert_eq!((info.role, info.offset, info.keys), (Role::Replica, 157, 4));
    assert!(info.follows("127.0.0.1", 17911) && info.link_up && !info.sync_in_progress);
    assert!(!info.is_detached() && info.read_only == Some(true));
    let sealed = REPLICA.replace("master_port:17911", "master_port:1");
    assert!(Info::parse(&sealed).unwrap().is_sealed());
    let writable = sealed.replace("slave_read_only:1", "slave_read_only:0");
    let info = Info::parse(&writable).unwrap();
    assert!(info.is_detached() && !info.is_sealed());
}

#[test]
fn a_valkey_8_replica_in_a_full_resync() {
    let info = Info::parse(VALKEY).unwrap();
    assert_eq!((info.server, info.version.as_str()), (Flavor::Valkey, "8.0.1"));
    assert_eq!(info.upstream, Some(("fd00::5".into(), 6379)));
    assert!(info.sync_in_progress && !info.link_up);
    assert_eq!(info.second_offset, Some(4001));
    assert_eq!(info.keys, u64::MAX, "sums saturate");
    assert_eq!(info.replicas[0].state, ReplicaState::Syncing("wait_bgsave".into()));
    assert_eq!((info.replicas[0].ip.as_str(), info.replicas[0].lag), ("fd00::7", None));
    assert!(info.aof_enabled && info.maxmemory == 4 << 30);
}

#[test]
fn the_processed_offset_is_the_smaller_one() {
    let with = |slave: &str, master: &str| {
        let text = REPLICA
            .replace("slave_repl_offset:157", &format!("slave_repl_offset:{slave}"))
            .replace("master_repl_offset:157", &format!("master_repl_offset:{master}"));
        Info::parse(&text).unwrap().offset
    };
    assert_eq!(with("150", "157"), 150);
    assert_eq!(with("1", "0"), 0, "a start without history");
    assert_eq!(with("0", "1505"), 0, "a full resync under way");
    assert_eq!(with("-1", "1505"), 1505, "no count at all");
}

/// Machines without a clock of their own start in the past or the future; then NTP sets them right.
#[test]
fn a_wall_clock_that_was_set_back_is_no_fault() {
    let (before, after) = PRIMARY.split_once("uptime_in_seconds:").unwrap();
    let rest = after.trim_start_matches(|digit: char| digit.is_ascii_digit());
    let info = Info::parse(&format!("{before}uptime_in_seconds:-3549{rest}")).unwrap();
    assert_eq!(info.uptime, Duration::ZERO);
}

#[test]
fn loading_shows_its_progress() {
    let text = PRIMARY.replace(
        "\nloading:0",
        "\nloading:1\r\nloading_total_bytes:1000\r\nloading_loaded_bytes:250\r\nloading_eta_seconds:3",
    );
    let info = Info::parse(&text).unwrap();
    let progress = LoadingProgress { total_bytes: 1000, loaded_bytes: 250, eta: Some(Duration::from_secs(3)) };
    assert_eq!((info.loading, info.loading_progress), (true, Some(progress)));
}

#[test]
fn faults_name_the_field() {
    let without = |field: &str| -> String {
        PRIMARY.lines().filter(|l| !l.starts_with(&format!("{field}:"))).collect::<Vec<_>>().join("\n")
    };
    for field in ["run_id", "role", "master_replid", "master_repl_offset", "process_id", "redis_version"] {
        let err = Info::parse(&without(field)).unwrap_err();
        assert!(matches!(err, InfoError::Missing(name) if name == field), "{field}: {err}");
    }
    for (good, bad, name) in [
        ("role:master", "role:sentinel", "role"),
        ("process_id:15732", "process_id:-4", "process_id"),
        ("run_id:bbeef", "run_id:zzeef", "run_id"),
        ("master_repl_offset:157", "master_repl_offset:9e9", "master_repl_offset"),
        ("port=17912", "port=99999", "slave"),
        ("db0:keys=3", "db0:keys=", "db"),
        ("\nloading:0", "\nloading:perhaps", "loading"),
    ] {
        let text = PRIMARY.replacen(good, bad, 1);
        assert_ne!(text, PRIMARY, "{good} is in the text");
        let err = Info::parse(&text).unwrap_err();
        assert!(matches!(&err, InfoError::Bad { field, .. } if *field == name), "{name}: {err}");
    }
    assert_eq!(Info::parse(""), Err(InfoError::Missing("role")));
    assert!(matches!(Info::parse(&"x".repeat(MAX_INFO + 1)), Err(InfoError::TooLarge(_))));
}

proptest! {
    #[test]
    fn garbage_never_panics(text in "\\PC{0,400}") {
        let _ = Info::parse(&text);
    }

    #[test]
    fn a_damaged_text_is_an_info_or_an_error(
        text in prop::sample::select(vec![PRIMARY, REPLICA, VALKEY]),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..20),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut bytes = text.as_bytes().to_vec();
        for (at, byte) in damage {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        bytes.truncate(cut.index(bytes.len()) + 1);
        let text = String::from_utf8_lossy(&bytes);
        match Info::parse(&text) {
            Ok(info) => prop_assert_eq!(info.run_id.len(), 40),
            Err(err) => prop_assert!(!err.to_string().is_empty()),
        }
    }

    #[test]
    fn any_value_in_any_field_is_survived(line in 0usize..220, value in "[-0-9a-z=,:]{0,30}") {
        let text: Vec<String> = PRIMARY
            .lines()
            .enumerate()
            .map(|(n, l)| match l.split_once(':') {
                Some((name, _)) if n == line => format!("{name}:{value}"),
                _ => l.to_owned(),
            })
            .collect();
        let _ = Info::parse(&text.join("\r\n"));
    }
}
