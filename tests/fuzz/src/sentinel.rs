//! What Sentinel clients send: to one connection in any pieces, with messages published between them.

use bytes::BytesMut;
use mainstay::resp::{Decoder, split};
use mainstay::sentinel::{fits, probe};

/// The most that a connection may hold of what it was sent: one request, and one piece.
const HELD: usize = 16 * 1024 + 8 * 1024;
/// The most that may be answered to one byte: a line of nine bytes lists all commands.
const ANSWER: usize = 512;
/// And told besides.
const TOLD: usize = 256 * 1024;

/// The first byte says whether a password is asked for and how long the pieces are; the rest is what is sent.
///
/// # Panics
/// See the crate.
pub fn sentinel(data: &[u8]) {
    let Some((way, rest)) = data.split_first() else { return };
    let password = (way & 1 == 1).then_some(&b"secret"[..]);
    let piece = usize::from(way >> 1) * 8 + 1;
    let (out, held) = probe::feed(rest.chunks(piece), password);
    assert!(held <= HELD, "a connection held {held} bytes");
    assert!(out.len() <= TOLD + rest.len() * ANSWER, "{} bytes answer {}", out.len(), rest.len());
    if piece >= rest.len() {
        return;
    }
    // The pieces change what is published when, but nothing of what is understood.
    assert_eq!(requests(rest, piece), requests(rest, rest.len().max(1)));
    if let Some(words) = split(rest) {
        let again: Vec<String> = words
            .iter()
            .map(|word| format!("\"{}\"", word.iter().map(|byte| format!("\\x{byte:02x}")).collect::<String>()))
            .collect();
        assert_eq!(split(again.join(" ").as_bytes()), Some(words));
    }
    let (pattern, text) = rest.split_at(rest.len() / 2);
    let _ = fits(&pattern[..pattern.len().min(256)], &text[..text.len().min(256)]);
}

/// What is understood before anything that is not.
fn requests(bytes: &[u8], piece: usize) -> (Vec<Vec<Vec<u8>>>, bool) {
    let limits = mainstay::resp::Limits { arguments: 16, argument: 512, total: 1024 };
    let (mut decoder, mut input, mut all) = (Decoder::default(), BytesMut::new(), Vec::new());
    for piece in bytes.chunks(piece) {
        input.extend_from_slice(piece);
        loop {
            match decoder.next(&mut input, &limits) {
                Ok(Some(request)) => all.push(request),
                Ok(None) => break,
                Err(_) => return (all, false),
            }
        }
    }
    (all, true)
}

/// What fuzzing begins with.
#[must_use]
pub fn seeds() -> Vec<Vec<u8>> {
    let lines: [&[u8]; 12] = [
        b"\xfePING\r\nSENTINEL get-master-addr-by-name mymaster\r\nSENTINEL MASTERS\r\n",
        b"\xfeHELLO 3 AUTH default secret SETNAME me\r\nINFO\r\nROLE\r\nCOMMAND DOCS sentinel\r\n",
        b"\xff*2\r\n$4\r\nAUTH\r\n$6\r\nsecret\r\n*2\r\n$8\r\nSENTINEL\r\n$7\r\nMASTERS\r\n",
        b"\x06*3\r\n$10\r\npsubscribe\r\n$1\r\n*\r\n$9\r\n+[a-z]\\**\r\nPING\r\nPUNSUBSCRIBE\r\n",
        b"\x02SUBSCRIBE +switch-master\r\nUNSUBSCRIBE\r\nRESET\r\nQUIT\r\n",
        b"\xfeSENTINEL REPLICAS mymaster\r\nSENTINEL SENTINELS mymaster\r\nSENTINEL CKQUORUM mymaster\r\n",
        b"\xfeSENTINEL INFO-CACHE mymaster\r\nSENTINEL CONFIG GET *\r\nSENTINEL RESET my*\r\nSENTINEL HELP\r\n",
        b"\xfeSENTINEL IS-MASTER-DOWN-BY-ADDR 10.0.0.1 6379 0 *\r\nSENTINEL FAILOVER mymaster\r\nSENTINEL MYID\r\n",
        b"\xfeSENTINEL SET mymaster quorum 2\r\nSENTINEL MONITOR a 127.0.0.1 1 1\r\nSENTINEL REMOVE mymaster\r\n",
        b"\xfeCLIENT SETNAME me\r\nCLIENT LIST\r\nCLIENT SETINFO LIB-NAME x\r\nCLIENT INFO\r\nCLIENT ID\r\nACL WHOAMI\r\n",
        b"\x10echo \"a\\x41\\n\" 'b\\'c'\r\nPUBLISH __sentinel__:hello x\r\n*0\r\n*-1\r\n",
        b"\x00*1\r\n$4\r\nPING\r\n*9999\r\n",
    ];
    lines.iter().map(|line| line.to_vec()).collect()
}
