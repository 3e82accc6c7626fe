//! The commands of a Sentinel that are not about groups, and the table of all.

use super::house::House;
use super::info::{REDIS_VERSION, info};
use super::session::{Context, Effect, HELLO, Session};
use crate::resp::{Protocol, Request, Value};

/// One command.
#[derive(Debug)]
pub(super) struct Command {
    pub(super) name: &'static str,
    /// Words, the command among them; if negative, at least so many.
    arity: i64,
    /// Allowed before the password was given.
    pub(super) open: bool,
    /// Allowed to one that listens in RESP2.
    pub(super) listening: bool,
    summary: &'static str,
}

const fn command(name: &'static str, arity: i64, open: bool, listening: bool, summary: &'static str) -> Command {
    Command { name, arity, open, listening, summary }
}

const COMMANDS: [Command; 17] = [
    command("acl", -2, false, false, "Tells who the client is."),
    command("auth", -2, true, false, "Gives the password."),
    command("client", -2, false, false, "Names and lists connections."),
    command("command", -1, false, false, "Describes these commands."),
    command("hello", -1, true, false, "Chooses the protocol."),
    command("info", -1, false, false, "Tells how this agent does."),
    command("ping", -1, false, true, "Answers."),
    command("psubscribe", -2, false, true, "Listens to channels by patterns."),
    command("publish", 3, false, false, "Takes another Sentinel's introduction."),
    command("punsubscribe", -1, false, true, "Stops listening by patterns."),
    command("quit", -1, true, true, "Closes the connection."),
    command("reset", 1, true, true, "Begins anew."),
    command("role", 1, false, false, "Names the groups."),
    command("sentinel", -2, false, false, "Tells of the groups."),
    command("shutdown", -1, false, false, "Refused: systemd stops the agent."),
    command("subscribe", -2, false, true, "Listens to channels."),
    command("unsubscribe", -1, false, true, "Stops listening to channels."),
];

/// What a client may call itself and its library, bytes.
const NAME: usize = 128;

/// The command that was meant, with as many words as it takes.
pub(super) fn find(request: &Request) -> Result<&'static Command, Value> {
    let word = request.first().map(Vec::as_slice).unwrap_or_default();
    let Some(found) = COMMANDS.iter().find(|known| word.eq_ignore_ascii_case(known.name.as_bytes())) else {
        let said: String = request.iter().skip(1).map(|word| format!("'{}' ", short(word))).collect();
        let said: String = said.chars().take(NAME).collect();
        return Err(Value::error(format!("ERR unknown command '{}', with args beginning with: {said}", short(word))));
    };
    let words = i64::try_from(request.len()).unwrap_or(i64::MAX);
    let right = if found.arity < 0 { words >= -found.arity } else { words == found.arity };
    if right { Ok(found) } else { Err(arguments(found.name)) }
}

/// Of what a client sent, not more than fits into a message.
pub(super) fn short(word: &[u8]) -> String {
    String::from_utf8_lossy(&word[..word.len().min(NAME)]).into_owned()
}

/// Wrong number of arguments for `name`, or `container|name`.
pub(super) fn arguments(name: &str) -> Value {
    Value::error(format!("ERR wrong number of arguments for '{name}' command"))
}

pub(super) fn unknown_subcommand(container: &str, word: &[u8]) -> Value {
    Value::error(format!("ERR unknown subcommand '{}'. Try {} HELP.", short(word), container.to_uppercase()))
}

/// As `CLIENT LIST` shows what was asked last.
pub(super) fn label(command: &Command, request: &Request) -> String {
    let container = matches!(command.name, "client" | "sentinel" | "command" | "acl");
    match request.get(1).filter(|_| container) {
        Some(word) => {
            let word: String = short(word).to_lowercase().chars().filter(char::is_ascii_graphic).take(32).collect();
            format!("{}|{word}", command.name)
        }
        None => command.name.to_owned(),
    }
}

/// An answer at once, unless there is none.
pub(super) fn answer(
    session: &mut Session,
    command: &Command,
    request: &Request,
    context: &Context<'_>,
) -> (Option<Value>, Effect) {
    let value = match command.name {
        "ping" if request.len() > 2 => arguments("ping"),
        "ping" => session.pong(request.get(1)),
        "hello" => hello(session, &request[1..], context),
        "auth" => auth(session, &request[1..], context),
        "client" => client(session, request, context),
        "command" => describe(request),
        "acl" => acl(request, context.house),
        // Of a Sentinel no verbatim string, unlike an instance's.
        "info" => Value::Bytes(info(&request[1..], context).into_bytes()),
        "role" => {
            let names = context.picture.groups.iter().map(|group| Value::text(group.name.clone())).collect();
            Value::Array(vec![Value::text("sentinel"), Value::Array(names)])
        }
        // A Sentinel beside this one introduces itself; whom to trust is not decided by that here.
        "publish" if request[1] == HELLO.as_bytes() => Value::Int(1),
        "publish" => Value::error("ERR Only HELLO messages are accepted by Sentinel instances."),
        "shutdown" => Value::error("ERR this is mainstay's agent: stop it on its host with `systemctl stop mainstay`"),
        "quit" => return (Some(Value::OK), Effect::Close),
        _ => {
            session.reset(context.house);
            context.house.note(session.id, |client| client.name.clear());
            Value::Status("RESET".into())
        }
    };
    (Some(value), Effect::None)
}

fn wrong_password() -> Value {
    Value::error("WRONGPASS invalid username-password pair or user is disabled.")
}

/// There is one user, called `default` as in Redis unless the config names it.
fn login(session: &mut Session, user: &[u8], password: &[u8], context: &Context<'_>) -> bool {
    let right = context.house.admits(user, password);
    session.known |= right;
    right
}

fn auth(session: &mut Session, said: &[Vec<u8>], context: &Context<'_>) -> Value {
    let (user, password) = match said {
        [_] if !context.house.guarded() => {
            return Value::error(
                "ERR AUTH <password> called without any password configured for the default user. Are you sure your \
                 configuration is correct?",
            );
        }
        [password] => (b"default".as_slice(), password),
        [user, password] => (user.as_slice(), password),
        _ => return Value::error("ERR syntax error"),
    };
    if login(session, user, password, context) { Value::OK } else { wrong_password() }
}

fn hello(session: &mut Session, said: &[Vec<u8>], context: &Context<'_>) -> Value {
    let mut protocol = session.protocol;
    let mut rest = said;
    if let [version, after @ ..] = said {
        protocol = match version.as_slice() {
            b"2" => Protocol::Resp2,
            b"3" => Protocol::Resp3,
            other if other.iter().all(u8::is_ascii_digit) => {
                return Value::error("NOPROTO unsupported protocol version");
            }
            _ => return Value::error("ERR Protocol version is not an integer or out of range"),
        };
        rest = after;
    }
    let mut name = None;
    while let [option, after @ ..] = rest {
        match after {
            [user, password, after @ ..] if option.eq_ignore_ascii_case(b"auth") => {
                if !login(session, user, password, context) {
                    return wrong_password();
                }
                rest = after;
            }
            [wanted, after @ ..] if option.eq_ignore_ascii_case(b"setname") => {
                match readable(wanted) {
                    Some(wanted) => name = Some(wanted),
                    None => return unreadable("Client names"),
                }
                rest = after;
            }
            _ => return Value::error(format!("ERR Syntax error in HELLO option '{}'", short(option))),
        }
    }
    if !session.known {
        return Value::error(
            "NOAUTH HELLO must be called with the client already authenticated, otherwise the HELLO <proto> AUTH <user> \
             <pass> option can be used to authenticate the client and select the RESP protocol version at the same time",
        );
    }
    session.protocol = protocol;
    if let Some(name) = name {
        rename(session, name, context);
    }
    let text = |name, value| (Value::text(name), value);
    Value::Map(vec![
        text("server", Value::text("redis")),
        text("version", Value::text(REDIS_VERSION)),
        text("proto", Value::Int(if protocol == Protocol::Resp3 { 3 } else { 2 })),
        text("id", number(session.id)),
        text("mode", Value::text("sentinel")),
        text("modules", Value::Array(Vec::new())),
    ])
}

fn number(number: u64) -> Value {
    Value::Int(i64::try_from(number).unwrap_or(i64::MAX))
}

/// A name without blanks and special characters, as `CLIENT LIST` needs it.
fn readable(word: &[u8]) -> Option<String> {
    let fits = word.len() <= NAME && word.iter().all(u8::is_ascii_graphic);
    fits.then(|| String::from_utf8_lossy(word).into_owned())
}

fn unreadable(what: &str) -> Value {
    Value::error(format!("ERR {what} cannot contain spaces, newlines or special characters."))
}

fn rename(session: &mut Session, name: String, context: &Context<'_>) {
    session.name.clone_from(&name);
    context.house.note(session.id, |client| client.name = name);
}

fn client(session: &mut Session, request: &Request, context: &Context<'_>) -> Value {
    let house = context.house;
    let word = request[1].to_ascii_lowercase();
    match (word.as_slice(), &request[2..]) {
        (b"id", []) => number(session.id),
        (b"getname", []) if session.name.is_empty() => Value::Null,
        (b"getname", []) => Value::text(session.name.clone()),
        (b"setname", [name]) => match readable(name) {
            Some(name) => {
                rename(session, name, context);
                Value::OK
            }
            None => unreadable("Client names"),
        },
        (b"setinfo", [option, value]) => {
            let Some(value) = readable(value) else { return unreadable(&short(option)) };
            match option.to_ascii_lowercase().as_slice() {
                b"lib-name" => house.note(session.id, |client| client.library = value),
                b"lib-ver" => house.note(session.id, |client| client.library_version = value),
                _ => return Value::error(format!("ERR Unrecognized option '{}'", short(option))),
            }
            Value::OK
        }
        (b"list", []) => Value::Verbatim(house.list(context.now, |_| true)),
        (b"list", [option, kind]) if option.eq_ignore_ascii_case(b"type") => {
            // Nothing but ordinary clients connects here; those that listen are told apart by their flags.
            let normal = kind.eq_ignore_ascii_case(b"normal");
            Value::Verbatim(house.list(context.now, |_| normal))
        }
        (b"list", [option, ids @ ..]) if option.eq_ignore_ascii_case(b"id") && !ids.is_empty() => {
            let ids: Vec<u64> = ids.iter().filter_map(|id| std::str::from_utf8(id).ok()?.parse().ok()).collect();
            Value::Verbatim(house.list(context.now, |id| ids.contains(&id)))
        }
        (b"info", []) => Value::Verbatim(house.list(context.now, |id| id == session.id)),
        (b"no-evict" | b"no-touch", [_]) => Value::OK,
        (b"help", []) => Value::Array(
            ["CLIENT <subcommand> [<arg> ...]. Subcommands are:", "GETNAME", "HELP", "ID", "INFO"]
                .into_iter()
                .chain(["LIST [TYPE normal|ID <id> ...]", "SETINFO (LIB-NAME|LIB-VER) <value>", "SETNAME <name>"])
                .map(|line| Value::Status(line.into()))
                .collect(),
        ),
        (b"id" | b"getname" | b"setname" | b"setinfo" | b"info" | b"no-evict" | b"no-touch" | b"help", _) => {
            arguments(&format!("client|{}", String::from_utf8_lossy(&word)))
        }
        (b"list", _) => Value::error("ERR syntax error"),
        _ => unknown_subcommand("client", &request[1]),
    }
}

fn acl(request: &Request, house: &House) -> Value {
    match request[1].to_ascii_lowercase().as_slice() {
        b"whoami" => Value::text(house.user().to_owned()),
        b"users" => Value::Array(vec![Value::text(house.user().to_owned())]),
        b"list" | b"setuser" | b"deluser" | b"load" | b"save" | b"getuser" => {
            Value::error("ERR there is one user; it is in the config's [sentinel], username and password_file")
        }
        _ => unknown_subcommand("acl", &request[1]),
    }
}

impl Command {
    fn row(&self) -> Value {
        let mut flags = vec!["sentinel"];
        flags.extend(self.open.then_some("no_auth"));
        flags.extend(self.name.ends_with("subscribe").then_some("pubsub"));
        let flags = flags.into_iter().map(|flag| Value::Status(flag.into())).collect();
        let none = || Value::Array(Vec::new());
        let zero = || Value::Int(0);
        let head = [Value::text(self.name), Value::Int(self.arity), Value::Array(flags), zero(), zero(), zero()];
        Value::Array(head.into_iter().chain([none(), none(), none(), none()]).collect())
    }

    fn docs(&self) -> (Value, Value) {
        (Value::text(self.name), Value::Map(vec![(Value::text("summary"), Value::text(self.summary))]))
    }
}

fn describe(request: &Request) -> Value {
    let names = request.get(2..).unwrap_or_default();
    let named = |known: &&Command| names.iter().any(|word| word.eq_ignore_ascii_case(known.name.as_bytes()));
    let word = request.get(1).map(|word| word.to_ascii_lowercase());
    match word.as_deref() {
        None => Value::Array(COMMANDS.iter().map(Command::row).collect()),
        Some(b"info") if names.is_empty() => Value::Array(COMMANDS.iter().map(Command::row).collect()),
        Some(b"info") => {
            let find = |word: &Vec<u8>| {
                let known = COMMANDS.iter().find(|known| word.eq_ignore_ascii_case(known.name.as_bytes()));
                known.map_or(Value::NullArray, Command::row)
            };
            Value::Array(names.iter().map(find).collect())
        }
        Some(b"count") => Value::Int(i64::try_from(COMMANDS.len()).unwrap_or(0)),
        Some(b"docs") => {
            Value::Map(COMMANDS.iter().filter(|known| names.is_empty() || named(known)).map(Command::docs).collect())
        }
        Some(b"list") => Value::Array(COMMANDS.iter().map(|known| Value::text(known.name)).collect()),
        Some(_) => unknown_subcommand("command", &request[1]),
    }
}
