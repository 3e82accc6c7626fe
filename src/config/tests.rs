//! The config as a whole: mistakes with their exact messages, what good files become, and that nothing panics.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use proptest::prelude::*;

use super::*;

const BASE: &str = include_str!("../../tests/config/base.toml");
const MISTAKES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/config/mistakes.txt");
const NAME: &str = "mainstay.toml";

/// Applies a case's edits to the base file.
fn edited(title: &str, edits: &[&str]) -> String {
    if edits.iter().all(|line| line.starts_with('|')) {
        let lines: Vec<&str> = edits.iter().map(|line| line[1..].strip_prefix(' ').unwrap_or("")).collect();
        return lines.join("\n");
    }
    let mut lines: Vec<&str> = BASE.lines().collect();
    let mut at = lines.len();
    for edit in edits {
        let text = edit[1..].strip_prefix(' ').unwrap_or("");
        if edit.starts_with('-') {
            at = lines.iter().position(|line| *line == text).unwrap_or_else(|| panic!("{title}: no line {text}"));
            lines.remove(at);
        } else {
            lines.insert(at, text);
            at += 1;
        }
    }
    lines.join("\n") + "\n"
}

#[test]
fn every_mistake_gets_its_message() {
    let bless = std::env::var_os("BLESS").is_some();
    let golden = std::fs::read_to_string(MISTAKES).unwrap();
    let (preface, cases) = golden.split_once("\n### ").unwrap();
    let mut renewed = preface.to_owned();
    let mut count = 0;
    for case in cases.split("\n### ") {
        let (input, expected) = case.split_once("\n=>\n").unwrap();
        let mut lines = input.lines();
        let title = lines.next().unwrap();
        let edits: Vec<&str> = lines.collect();
        let text = edited(title, &edits);
        let said = match parse(&text, NAME) {
            Err(faults) => faults.to_string(),
            Ok(_) => panic!("{title}: accepted\n{text}"),
        };
        assert!(said.is_ascii(), "{title}: not ASCII\n{said}");
        assert!(!said.contains("hunter2"), "{title}: shows a secret\n{said}");
        if !bless {
            assert_eq!(said, expected.trim_end(), "{title}");
        }
        renewed.push_str(&format!("\n### {input}\n=>\n{said}\n"));
        count += 1;
    }
    assert!(count >= 100, "{count} cases read");
    if bless {
        std::fs::write(MISTAKES, renewed).unwrap();
    }
}

#[test]
fn the_base_file_becomes_a_config() {
    let (config, warnings) = parse(BASE, NAME).unwrap();
    assert_eq!(warnings, []);
    assert_eq!(config.node.name, "n1");
    assert_eq!(config.node.address.to_string(), "10.0.0.1:7400");
    assert_eq!(config.node.bind, None);
    let Start::Members(members) = &config.cluster.start else { panic!("{config:?}") };
    assert_eq!(members.keys().collect::<Vec<_>>(), ["n1", "n2", "n3"]);
    assert_eq!(config.timing, Timing::default());
    let group = &config.groups[0];
    assert_eq!(group.redis, RedisAddress::Tcp("127.0.0.1:6379".parse().unwrap()));
    let vip = group.vip.as_ref().unwrap();
    assert_eq!(vip.vip.address, IpAddr::V4(Ipv4Addr::new(10, 0, 0, 100)));
    assert_eq!((vip.vip.prefix_len, vip.interface.as_str()), (24, "eth0"));
    assert_eq!((group.priority, group.durability, group.quarantine), (100, Durability::Available, false));
    assert_eq!(unbuilt(&config), ["[http]"]);
    let policy = config.policy();
    assert_eq!(policy.address, "10.0.0.1:7400");
    assert_eq!(policy.lease, DEFAULT_LEASE);
    let group = &policy.groups[&GroupName::from("mymaster")];
    assert_eq!((group.announce.as_str(), group.priority, group.vip), ("10.0.0.1:6379", 100, true));
}

/// Every key at once, as the example of the documentation has it with its comments taken off.
#[test]
fn every_built_and_unbuilt_key_together_is_accepted() {
    let text = edited(
        "everything",
        &[
            "- data_dir = \"/var/lib/mainstay\"",
            "+ bind = \"0.0.0.0:7400\"",
            "+ data_dir = \"/var/lib/mainstay\"",
            "- quarantine = false",
            "+ quarantine = true",
            "+ redis_username = \"mainstay\"",
            "+ redis_password_file = \"/etc/mainstay/redis.password\"",
            "+ redis_unit = \"redis-server@6379.service\"",
            "- durability = \"available\"",
            "+ durability = \"quorum\"",
            "- listen = \"0.0.0.0:26379\"",
            "+ listen = \"0.0.0.0:26379\"",
            "+ password_file = \"/etc/mainstay/sentinel.password\"",
        ],
    );
    let (config, warnings) = parse(&text, NAME).unwrap();
    assert_eq!(warnings, []);
    let group = &config.groups[0];
    assert_eq!(group.durability, Durability::Quorum);
    assert_eq!(group.username.as_deref(), Some("mainstay"));
    assert_eq!(group.password_file.as_deref(), Some(Path::new("/etc/mainstay/redis.password")));
    assert_eq!(unbuilt(&config), ["[http]"]);
    let empty_notify = BASE.replace("command = \"/etc/mainstay/notify\"", "# command = \"/etc/mainstay/notify\"");
    let (config, _) = parse(&empty_notify, NAME).unwrap();
    assert_eq!(config.notify_command, None);
    let joining = BASE.replace(
        "members = { n1 = \"10.0.0.1:7400\", n2 = \"10.0.0.2:7400\", n3 = \"10.0.0.3:7400\" }",
        "join = [\"10.0.0.2:7400\"]",
    );
    let (config, _) = parse(&joining, NAME).unwrap();
    assert_eq!(config.cluster.start, Start::Join(vec!["10.0.0.2:7400".parse().unwrap()]));
}

/// Several nodes on one machine, as for trying it out: one address, many ports.
#[test]
fn nodes_on_one_loopback_are_accepted() {
    for n in 1..=3 {
        let text = format!(
            "[node]\nname = 'n{n}'\naddress = '127.0.0.1:{}'\ndata_dir = '/tmp/node{n}'\n\
             [cluster]\nname = 'demo'\nkey_file = '/tmp/demo/key'\n\
             members = {{ n1 = '127.0.0.1:7000', n2 = '127.0.0.1:7001', n3 = '127.0.0.1:7002' }}\n\
             [[group]]\nname = 'mymaster'\nredis = '127.0.0.1:{redis}'\nannounce = '127.0.0.1:{redis}'\n\
             [sentinel]\nlisten = '127.0.0.1:{}'\n[http]\nlisten = '127.0.0.1:{}'\n\
             [control]\nsocket = '/tmp/node{n}/mainstay.sock'\n",
            6999 + n,
            26378 + n,
            7999 + n,
            redis = 6378 + n,
        );
        let (_, warnings) = parse(&text, NAME).unwrap_or_else(|faults| panic!("{faults}"));
        assert_eq!(warnings, []);
    }
}

/// The least each kind of node needs; the defaults are those the reference states.
#[test]
fn short_files_get_the_documented_defaults() {
    let text =
        "[node]\nname = 'w'\naddress = 'localhost:7000'\n[cluster]\nname = 'c'\nmembers = { w = 'localhost:7000' }\n";
    let (config, warnings) = parse(text, NAME).unwrap();
    assert_eq!(warnings, []);
    assert!(config.groups.is_empty());
    assert!(unbuilt(&config).is_empty());
    let default = |path: &str| {
        let key = REFERENCE.iter().find(|key| key.path == path).unwrap();
        match key.presence {
            Presence::Default(text) => text.trim_matches('"'),
            other => panic!("{path} has no default but is {other:?}"),
        }
    };
    assert_eq!(config.node.data_dir.to_str(), Some(default("node.data_dir")));
    assert_eq!(config.cluster.key_file.to_str(), Some(default("cluster.key_file")));
    assert_eq!(config.control_socket.to_str(), Some(default("control.socket")));
    assert_eq!(config.timing.lease.as_millis().to_string(), default("timing.lease_ms"));
    assert_eq!(config.timing.hang_after.as_millis().to_string(), default("timing.hang_after_ms"));

    let group = "[[group]]\nname = 'g'\nredis = 'unix:/run/redis.sock'\nannounce = '127.0.0.1:6379'\n";
    let (config, _) = parse(&format!("{text}{group}"), NAME).unwrap();
    let group = &config.groups[0];
    assert_eq!(group.redis, RedisAddress::Unix("/run/redis.sock".into()));
    assert_eq!(group.vip, None);
    assert_eq!(group.priority.to_string(), default("group.priority"));
    assert_eq!(group.quarantine.to_string(), default("group.quarantine"));
    assert_eq!((group.durability, default("group.durability")), (Durability::Available, "available"));

    let (config, _) = parse(&format!("{text}[timing]\nlease_ms = 30_000\n"), NAME).unwrap();
    assert_eq!(config.timing.hang_after, Duration::from_secs(30));
}

#[test]
fn ipv6_and_crlf_and_a_byte_order_mark_are_fine() {
    let text = edited(
        "ipv6",
        &[
            "- address = \"10.0.0.1:7400\"",
            "+ address = \"[2001:db8::1]:7400\"",
            "+ bind = \"[::]:7400\"",
            "- members = { n1 = \"10.0.0.1:7400\", n2 = \"10.0.0.2:7400\", n3 = \"10.0.0.3:7400\" }",
            "+ members = { n1 = \"[2001:db8:0::1]:7400\", n2 = \"[2001:db8::2]:7400\", n3 = \"[2001:db8::3]:7400\" }",
            "- announce = \"10.0.0.1:6379\"",
            "+ announce = \"[2001:db8::1]:6379\"",
            "- vip = \"10.0.0.100/24\"",
            "+ vip = \"2001:db8::100/64\"",
        ],
    );
    let text = format!("\u{feff}{}", text.replace('\n', "\r\n"));
    let (config, warnings) = parse(&text, NAME).unwrap();
    assert_eq!(warnings, []);
    let vip = config.groups[0].vip.as_ref().unwrap();
    assert_eq!(vip.vip.address, IpAddr::V6("2001:db8::100".parse::<Ipv6Addr>().unwrap()));
    assert_eq!(config.groups[0].announce.to_string(), "[2001:db8::1]:6379");
}

#[test]
fn what_is_odd_but_possible_is_a_warning() {
    let text = edited(
        "warnings",
        &[
            "- members = { n1 = \"10.0.0.1:7400\", n2 = \"10.0.0.2:7400\", n3 = \"10.0.0.3:7400\" }",
            "+ members = { n1 = \"db1.example:7400\", n2 = \"10.0.0.2:7400\" }",
            "- address = \"10.0.0.1:7400\"",
            "+ address = \"db1.example:7400\"",
            "+ bind = \"0.0.0.0:7401\"",
            "- announce = \"10.0.0.1:6379\"",
            "+ announce = \"db1.example:6380\"",
        ],
    );
    let (_, warnings) = parse(&text, NAME).unwrap();
    let said: Vec<_> = warnings.iter().map(|w| (w.line, w.message.as_str())).collect();
    assert_eq!(
        said,
        [
            (Some(3), "[node] address db1.example:7400 is a host name: a failover then waits for name resolution"),
            (Some(4), "[node] bind uses port 7401, address port 7400"),
            (Some(10), "[cluster] members has 2 nodes; an even one adds no safety, so one of them stays a learner"),
            (
                Some(19),
                "group \"mymaster\" announces the host name db1.example: replicas and clients must resolve it at each change"
            ),
            (Some(19), "group \"mymaster\" announces port 6380, but its instance listens on port 6379"),
        ]
    );
    assert!(warnings[0].to_string().starts_with("mainstay.toml:3:11: warning: [node] address"));
}

#[test]
fn a_join_from_the_command_line_replaces_the_file() {
    let join: HostPort = "10.0.0.2:7400".parse().unwrap();
    let overrides = Overrides { join: Some(join.clone()) };
    let (config, _) = parse_with(BASE, NAME, &overrides).unwrap();
    assert_eq!(config.cluster.start, Start::Join(vec![join.clone()]));

    let without = BASE.lines().filter(|line| !line.starts_with("members")).collect::<Vec<_>>().join("\n");
    assert!(parse(&without, NAME).is_err());
    let (config, _) = parse_with(&without, NAME, &overrides).unwrap();
    assert_eq!(config.cluster.start, Start::Join(vec![join.clone()]));

    let (mut config, _) = parse(BASE, NAME).unwrap();
    config.override_join(join.clone()).unwrap();
    assert_eq!(config.cluster.start, Start::Join(vec![join]));
    let own = config.node.address.clone();
    assert_eq!(config.override_join(own.clone()), Err(JoinsItself(own.clone())));
    let faults = parse_with(BASE, NAME, &Overrides { join: Some(own) }).unwrap_err();
    assert_eq!(faults.iter().next().unwrap().message, "--join 10.0.0.1:7400 is this node's own address");
}

/// Every key of the reference is read: a date, which none allows, is noticed at each.
#[test]
fn every_key_of_the_reference_is_read() {
    for key in REFERENCE {
        let table = key.table();
        let header = if table.starts_with("group") { "[[group]]\n".to_owned() } else { format!("[{table}]\n") };
        let line = match table.strip_prefix("group.") {
            Some(inner) => format!("{inner} = {{ {} = 1979-05-27 }}\n", key.name()),
            None => format!("{} = 1979-05-27\n", key.name()),
        };
        let faults = parse(&format!("{header}{line}"), NAME).unwrap_err();
        let noticed = faults
            .iter()
            .any(|f| f.kind == FaultKind::WrongType && f.line == Some(2) && f.message.contains(key.name()));
        assert!(noticed, "{} is not read:\n{faults}", key.path);
        assert!(faults.iter().all(|f| f.kind != FaultKind::UnknownKey), "{} is unknown:\n{faults}", key.path);
    }
}

#[test]
fn a_flood_of_faults_is_counted_and_cut() {
    let keys: String = (0..5_000).map(|i| format!("k{i}=0\n")).collect();
    let faults = parse(&format!("[node]\n{keys}"), NAME).unwrap_err();
    assert_eq!(faults.iter().count(), 50);
    // The keys, and what [node] and the file lack.
    assert_eq!(faults.count(), 5_003);
    assert!(faults.to_string().ends_with("mainstay.toml: 5003 errors, the first 50 shown"));

    let garbage = "= \n".repeat(50_000);
    assert!(parse(&garbage, NAME).unwrap_err().count() <= 5);
}

#[test]
fn files_that_cannot_be_read_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("mainstay.toml");
    let shown = path.display().to_string();
    let said = |path: &Path| {
        let error = load(path).unwrap_err();
        (error.to_string(), error.exit_code())
    };

    let (text, code) = said(&path);
    assert_eq!(text, format!("{shown}: there is no such file; `mainstay init` writes one, --config names another"));
    assert_eq!(code, 66);
    let (text, code) = said(dir.path());
    assert_eq!(text, format!("{}: is a directory; name the file in it, such as {shown}", dir.path().display()));
    assert_eq!(code, 66);
    assert!(said(Path::new("/dev/null")).0.ends_with("cannot be read: not a regular file"));

    std::fs::write(&path, b"[node]\nname = \"\xff\"\n").unwrap();
    let (text, code) = said(&path);
    assert!(text.starts_with(&format!("{shown}:2:9: error: this byte is not UTF-8")), "{text}");
    assert_eq!(code, 78);
    std::fs::write(&path, vec![b'#'; MAX_FILE as usize + 1]).unwrap();
    assert!(said(&path).0.ends_with("is larger than 256 KiB; this is no config file"));
    std::fs::write(&path, "").unwrap();
    assert_eq!(said(&path).1, 78);
    std::fs::write(&path, BASE).unwrap();
    assert!(load(&path).is_ok());
}

#[test]
fn addresses_are_printed_as_they_are_read() {
    for text in ["10.0.0.1:7400", "[::1]:7400", "db1.example:1", "localhost:65535"] {
        assert_eq!(text.parse::<HostPort>().unwrap().to_string(), text);
    }
    assert_eq!("[::ffff:10.0.0.1]:1".parse::<HostPort>().unwrap().to_string(), "10.0.0.1:1");
    assert_eq!("unix:/run/r.sock".parse::<RedisAddress>().unwrap().to_string(), "unix:/run/r.sock");
    for vip in ["10.0.0.100/32", "10.0.0.100/31", "10.0.0.100/24", "2001:db8::100/128"] {
        assert_eq!(vip.parse::<Vip>().unwrap().to_string(), vip);
    }
}

/// Found by the generator below.
#[test]
fn what_is_not_ascii_is_told_in_ascii() {
    for value in [
        "h:\u{e9}",
        "1.2.3.\u{e9}:1",
        "[fe80::1%\u{e9}]:1",
        "/\u{e9}",
        "\u{e9}://h:1",
        "\u{e9}:",
        "[\u{e9}]:1",
        "unix:\u{e9}",
        "\u{e9}.\u{e9}:6379:",
    ] {
        let text = BASE.lines().map(|line| match line.split_once(" =") {
            Some(("redis", _)) => format!("redis = \"{value}\"\n"),
            _ => format!("{line}\n"),
        });
        let said = parse(&text.collect::<String>(), NAME).expect_err(value).to_string();
        assert!(said.is_ascii(), "{said}");
    }
}

proptest! {
    #[test]
    fn arbitrary_text_never_panics(text in "\\PC{0,200}") {
        let _ = parse(&text, NAME).map_err(|faults| faults.to_string());
    }

    /// Text of the right shape, which gets past the syntax.
    #[test]
    fn arbitrary_values_never_panic(line in 0..35usize, value in "[-0-9a-z.:/\\[\\]{}=\", \u{e9}\t]{0,40}", quote: bool) {
        let mut lines: Vec<String> = BASE.lines().map(str::to_owned).collect();
        if let Some(line) = lines.get_mut(line)
            && let Some((key, _)) = line.clone().split_once(" =")
        {
            *line = if quote { format!("{key} = \"{}\"", value.replace('"', "'")) } else { format!("{key} = {value}") };
        }
        let said = parse(&lines.join("\n"), NAME).map_err(|faults| faults.to_string());
        if let Err(said) = said {
            prop_assert!(said.is_ascii(), "{said}");
        }
    }

    /// Cut anywhere, in the middle of a character too.
    #[test]
    fn a_cut_file_never_panics(at in 0..BASE.len(), insert in "\\PC{0,4}") {
        let text = format!("{}{insert}", BASE.get(..at).unwrap_or_default());
        let _ = parse(&text, NAME).map_err(|faults| faults.to_string());
    }

    #[test]
    fn addresses_never_panic(text in "[-0-9a-f.:/%\\[\\]x]{0,30}|\\PC{0,30}") {
        if let Ok(address) = text.parse::<HostPort>() {
            prop_assert_eq!(address.to_string().parse::<HostPort>(), Ok(address));
        }
        let _ = text.parse::<Vip>();
        let _ = text.parse::<RedisAddress>();
    }
}
