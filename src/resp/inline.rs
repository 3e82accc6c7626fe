//! Inline requests: words between blanks, with quotes as `redis-cli` and telnet users write them.

/// The words of a line; None where its quotes do not close, or a closing one is followed by something else than a blank.
///
/// In double quotes `\n`, `\r`, `\t`, `\b`, `\a` and `\xHH` are bytes, and a backslash takes the next character as it is;
/// in single quotes only `\'` is special.
#[must_use]
pub fn split(line: &[u8]) -> Option<Vec<Vec<u8>>> {
    let mut words = Vec::new();
    let mut rest = line;
    loop {
        rest = rest.trim_ascii_start();
        if rest.is_empty() {
            return Some(words);
        }
        let (word, after) = word(rest)?;
        words.push(word);
        rest = after;
    }
}

/// One word, quotes anywhere in it, and what follows it.
fn word(mut rest: &[u8]) -> Option<(Vec<u8>, &[u8])> {
    let mut word = Vec::new();
    while let Some((&byte, after)) = rest.split_first() {
        match byte {
            b'"' | b'\'' => {
                rest = quoted(byte, after, &mut word)?;
                let ends = rest.first().is_none_or(u8::is_ascii_whitespace);
                return ends.then_some((word, rest));
            }
            byte if byte.is_ascii_whitespace() || byte == 0 => return Some((word, after)),
            byte => {
                word.push(byte);
                rest = after;
            }
        }
    }
    Some((word, rest))
}

/// Up to the closing quote; what follows it.
fn quoted<'a>(quote: u8, mut rest: &'a [u8], word: &mut Vec<u8>) -> Option<&'a [u8]> {
    loop {
        let (&byte, after) = rest.split_first()?;
        rest = after;
        match (byte, quote) {
            (byte, quote) if byte == quote => return Some(rest),
            (b'\\', b'"') => {
                let (byte, after) = escaped(rest)?;
                word.push(byte);
                rest = after;
            }
            (b'\\', _) if rest.first() == Some(&b'\'') => {
                word.push(b'\'');
                rest = &rest[1..];
            }
            (byte, _) => word.push(byte),
        }
    }
}

/// What a backslash in double quotes stands for.
fn escaped(rest: &[u8]) -> Option<(u8, &[u8])> {
    if let [b'x', high, low, after @ ..] = rest
        && let (Some(high), Some(low)) = (hex(*high), hex(*low))
    {
        return Some((high << 4 | low, after));
    }
    let (&byte, after) = rest.split_first()?;
    let byte = match byte {
        b'n' => b'\n',
        b'r' => b'\r',
        b't' => b'\t',
        b'b' => 8,
        b'a' => 7,
        other => other,
    };
    Some((byte, after))
}

fn hex(byte: u8) -> Option<u8> {
    (byte as char).to_digit(16).and_then(|digit| u8::try_from(digit).ok())
}
