//! Patterns of PSUBSCRIBE and RESET: `*`, `?`, `[a-z]`, `[^a]` and `\` before a character that is meant as it is.

/// Whether all of `text` fits. Takes no more steps than the product of both lengths.
#[must_use]
pub fn fits(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t) = (0, 0);
    // Where the last star stands, and how much it has taken: the only point to come back to.
    let mut star: Option<(usize, usize)> = None;
    loop {
        if t < text.len() {
            if pattern.get(p) == Some(&b'*') {
                star = Some((p, t));
                p += 1;
                continue;
            }
            if let Some(after) = one(&pattern[p..], text[t]) {
                p += after;
                t += 1;
                continue;
            }
        } else if pattern[p..].iter().all(|byte| *byte == b'*') {
            return true;
        }
        match star {
            Some((at, taken)) if taken < text.len() => {
                star = Some((at, taken + 1));
                (p, t) = (at + 1, taken + 1);
            }
            _ => return false,
        }
    }
}

/// How much of the pattern stands for this byte, if it does.
fn one(pattern: &[u8], byte: u8) -> Option<usize> {
    match pattern {
        [] => None,
        [b'?', ..] => Some(1),
        [b'[', rest @ ..] => class(rest, byte).map(|length| length + 1),
        [b'\\', escaped, ..] => (*escaped == byte).then_some(2),
        [plain, ..] => (*plain == byte).then_some(1),
    }
}

/// The length of a class with its closing bracket, if the byte is of it. A class that is not closed ends with the pattern.
fn class(rest: &[u8], byte: u8) -> Option<usize> {
    let (unlike, mut at) = if rest.first() == Some(&b'^') { (true, 1) } else { (false, 0) };
    let mut found = false;
    while at < rest.len() && rest[at] != b']' {
        match &rest[at..] {
            [b'\\', escaped, ..] => {
                found |= *escaped == byte;
                at += 2;
            }
            [low, b'-', high, ..] if *high != b']' => {
                found |= (*low.min(high)..=*low.max(high)).contains(&byte);
                at += 3;
            }
            [plain, ..] => {
                found |= *plain == byte;
                at += 1;
            }
            [] => break,
        }
    }
    (found != unlike).then_some((at + 1).min(rest.len()))
}
