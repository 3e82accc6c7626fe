//! The man pages and the shells' completions, made from what the program itself takes: `Cli`, and the config's list of
//! keys. A module of the program's own tests, since `Cli` is not in the library.
//!
//! `UPDATE_PAGES=1 cargo nextest run --bin mainstay` writes them anew.

use super::Cli;
use clap::CommandFactory as _;
use clap_complete::{Shell, generate};
use clap_mangen::Man;
use mainstay::config::{Presence, REFERENCE};
use std::fmt::Write as _;
use std::path::Path;

/// Compares a file below packaging/ with what it must hold, or writes it.
fn check(name: &str, wanted: &[u8]) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging").join(name);
    if std::env::var_os("UPDATE_PAGES").is_some() {
        std::fs::write(&path, wanted).expect("it is written");
    }
    let found = std::fs::read(&path).unwrap_or_default();
    let same = found == wanted;
    assert!(same, "{name} is out of date: UPDATE_PAGES=1 cargo nextest run --bin mainstay writes it");
}

/// Text as roff takes it.
fn roff(text: &str) -> String {
    let escaped = text.replace('\\', "\\e").replace('-', "\\-");
    let lines = escaped.lines().map(|line| match line.starts_with(['.', '\'']) {
        true => format!("\\&{line}\n"),
        false => format!("{line}\n"),
    });
    lines.collect::<String>().trim_end().to_owned()
}

/// The body of a section that clap_mangen renders with its heading.
fn body(render: impl FnOnce(&mut Vec<u8>) -> std::io::Result<()>) -> String {
    let mut rendered = Vec::new();
    render(&mut rendered).expect("roff");
    let text = String::from_utf8(rendered).expect("utf-8");
    let from = text.find(".SH").map_or(text.len(), |at| text[at..].find('\n').map_or(text.len(), |end| at + end + 1));
    text[from..].to_owned()
}

const FILES: &str = "\
.SH FILES
.TP
/etc/mainstay/mainstay.toml
this host's settings: mainstay.toml(5)
.TP
/etc/mainstay/cluster.key
the cluster's key, the same on all its hosts
.TP
/var/lib/mainstay
what the agent must not forget
.TP
/run/mainstay/mainstay.sock
where the commands reach the agent
.SH SEE ALSO
mainstay.toml(5), redis\\-server(1), valkey\\-server(1), systemctl(1)
";

#[test]
fn the_manual_page_tells_every_command() {
    let command = Cli::command().disable_help_subcommand(true);
    let man = Man::new(command.clone()).manual("mainstay");
    let mut page = Vec::new();
    man.render_title(&mut page).expect("roff");
    man.render_name_section(&mut page).expect("roff");
    man.render_synopsis_section(&mut page).expect("roff");
    man.render_description_section(&mut page).expect("roff");
    let mut text = String::from_utf8(page).expect("utf-8");
    text.push_str(".SH COMMANDS\n");
    let mut commands = 0;
    for mut sub in command.get_subcommands().filter(|sub| !sub.is_hide_set()).cloned() {
        commands += 1;
        let name = format!("mainstay {}", sub.get_name());
        sub = sub.bin_name(name).disable_help_flag(true);
        let usage = sub.render_usage().to_string().replace("Usage: ", "");
        let about = sub.get_long_about().or(sub.get_about()).map(ToString::to_string).unwrap_or_default();
        let _ = write!(text, ".SS \"{}\"\n{}\n", roff(usage.trim()), roff(&about));
        if sub.get_arguments().next().is_some() {
            text.push_str(&body(|out| Man::new(sub).render_options_section(out)));
        }
    }
    assert!(commands > 8, "only {commands} commands");
    let after = command.get_after_help().map(ToString::to_string).unwrap_or_default();
    let codes = after.trim_start_matches("Exit codes:").trim();
    let _ = writeln!(text, ".SH EXIT STATUS\n{}", roff(codes));
    text.push_str(FILES);
    check("man/mainstay.1", text.as_bytes());
}

const TOML: &str = "\
.SH NAME
mainstay.toml \\- settings of the mainstay agent
.SH DESCRIPTION
Read from /etc/mainstay/mainstay.toml, in TOML. Every unknown key and every bad value is an error that names the line and \
what is allowed. The lease and the settings of a group seed the state that the agents replicate; once there is one it rules, \
and a file that differs is a warning.
.PP
Paths are absolute. Files with secrets belong to root and are readable by the group mainstay.
";

#[test]
fn the_manual_page_of_the_config_tells_every_key() {
    let version = env!("CARGO_PKG_VERSION");
    let mut text = format!(".TH mainstay.toml 5 \"\" \"mainstay {version}\" \"mainstay\"\n{TOML}");
    let mut table = "";
    for key in REFERENCE {
        if key.table() != table {
            table = key.table();
            let header = if table == "group" { "[[group]]".to_owned() } else { format!("[{table}]") };
            let _ = writeln!(text, ".SH {header}");
        }
        let default = match key.presence {
            Presence::Required => "required".to_owned(),
            Presence::Optional => "optional".to_owned(),
            Presence::Default(value) => format!("default {value}"),
        };
        let kind = key.kind.describe();
        let _ = writeln!(text, ".TP\n\\fB{}\\fR ({}, {})", roff(key.name()), roff(kind), roff(&default));
        let _ = writeln!(text, "{}\nAllowed: {}.", roff(key.doc), roff(key.allowed));
    }
    text.push_str(".SH EXAMPLE\n.nf\n");
    text.push_str(&roff(include_str!("../../packaging/examples/trio.toml")));
    text.push_str("\n.fi\n.SH SEE ALSO\nmainstay(1)\n");
    check("man/mainstay.toml.5", text.as_bytes());
}

#[test]
fn shells_complete_what_the_program_takes() {
    for (shell, name) in [(Shell::Bash, "mainstay.bash"), (Shell::Zsh, "_mainstay"), (Shell::Fish, "mainstay.fish")] {
        let mut script = Vec::new();
        generate(shell, &mut Cli::command(), "mainstay", &mut script);
        check(&format!("completions/{name}"), &script);
    }
}
