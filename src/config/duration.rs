//! Durations as an operator types them on the command line: `90s`, `10m`, `1h30m`, `250ms`.
//!
//! Parses and prints, nothing else. The config file itself counts in whole milliseconds (`_ms` keys) and does not
//! use this notation. A number without a unit is refused, never guessed: `--for 10` could be meant as seconds or
//! as minutes, and a pause that ends too early is a failover nobody expected.

use std::time::Duration;

/// The longest duration accepted: 366 days. Bounds every timer that an operator can set.
pub const LONGEST: Duration = Duration::from_secs(366 * 86_400);

/// Units from the largest to the smallest, with their length in milliseconds.
const UNITS: [(&str, u64); 5] = [
    ("d", 86_400_000),
    ("h", 3_600_000),
    ("m", 60_000),
    ("s", 1_000),
    ("ms", 1),
];

/// Why a text is no duration. Reads on from the quoted text: `"10" has no unit; …`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DurationError {
    /// Nothing but white space.
    #[error("is empty; write a duration such as 90s, 10m or 1h30m")]
    Empty,
    /// A number that no unit follows.
    #[error("has no unit after {0}; write {0}s, {0}m or {0}h")]
    NoUnit(u64),
    /// A unit or a sign that no number precedes.
    #[error("has no number before `{0}`; write for example 90s or 1h30m")]
    NoNumber(String),
    /// `1.5h`.
    #[error("has a fraction; write 1h30m instead of 1.5h")]
    Fraction,
    /// Letters that are none of d, h, m, s, ms.
    #[error("has the unknown unit `{0}`; units are d, h, m, s and ms")]
    UnknownUnit(String),
    /// A unit twice, or a larger unit after a smaller one.
    #[error("has `{0}` out of order; write each unit once, the largest first, such as 1h30m")]
    Order(String),
    /// A duration of nothing.
    #[error("is zero; write at least 1ms")]
    Zero,
    /// Longer than [`LONGEST`].
    #[error("is longer than 366d")]
    TooLong,
}

/// Reads a duration such as `90s`, `10m`, `1h30m` or `250ms`.
///
/// # Errors
/// Says what is wrong and what to write instead; the text itself is for the caller to quote.
pub fn parse_duration(text: &str) -> Result<Duration, DurationError> {
    let mut rest = text.trim();
    if rest.is_empty() {
        return Err(DurationError::Empty);
    }
    let mut total_ms: u64 = 0;
    let mut next_unit = 0;
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let (number, tail) = rest.split_at(digits);
        let letters = tail
            .find(|c: char| c.is_ascii_digit())
            .unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(letters);
        if number.is_empty() {
            return Err(DurationError::NoNumber(unit.to_owned()));
        }
        let number: u64 = number.parse().map_err(|_| DurationError::TooLong)?;
        if unit.is_empty() {
            return Err(DurationError::NoUnit(number));
        }
        if unit.starts_with(['.', ',']) {
            return Err(DurationError::Fraction);
        }
        let Some(index) = UNITS.iter().position(|(name, _)| *name == unit) else {
            return Err(DurationError::UnknownUnit(unit.to_owned()));
        };
        if index < next_unit {
            return Err(DurationError::Order(unit.to_owned()));
        }
        next_unit = index + 1;
        total_ms = number
            .checked_mul(UNITS[index].1)
            .and_then(|ms| ms.checked_add(total_ms))
            .ok_or(DurationError::TooLong)?;
        rest = tail;
    }
    match Duration::from_millis(total_ms) {
        Duration::ZERO => Err(DurationError::Zero),
        total if total > LONGEST => Err(DurationError::TooLong),
        total => Ok(total),
    }
}

/// Prints a duration as [`parse_duration`] reads it, rounded down to milliseconds; `0s` for less.
#[must_use]
pub fn format_duration(duration: Duration) -> String {
    let mut ms = duration.as_millis();
    let mut text = String::new();
    for (unit, length) in UNITS {
        let count = ms / u128::from(length);
        if count > 0 {
            text.push_str(&format!("{count}{unit}"));
            ms %= u128::from(length);
        }
    }
    if text.is_empty() {
        "0s".to_owned()
    } else {
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn reads_what_operators_type() {
        for (text, ms) in [
            ("90s", 90_000),
            ("10m", 600_000),
            ("1h30m", 5_400_000),
            (" 250ms ", 250),
            ("1d", 86_400_000),
            ("1d2h3m4s5ms", 93_784_005),
            ("1m1ms", 60_001),
            ("0h5s", 5_000),
        ] {
            assert_eq!(
                parse_duration(text),
                Ok(Duration::from_millis(ms)),
                "{text}"
            );
        }
    }

    #[test]
    fn refuses_with_the_remedy() {
        for (text, says) in [
            ("", "is empty; write a duration such as 90s, 10m or 1h30m"),
            ("10", "has no unit after 10; write 10s, 10m or 10h"),
            ("1h30", "has no unit after 30; write 30s, 30m or 30h"),
            (
                "m",
                "has no number before `m`; write for example 90s or 1h30m",
            ),
            (
                "-5m",
                "has no number before `-`; write for example 90s or 1h30m",
            ),
            ("1.5h", "has a fraction; write 1h30m instead of 1.5h"),
            (
                "5min",
                "has the unknown unit `min`; units are d, h, m, s and ms",
            ),
            (
                "30m1h",
                "has `h` out of order; write each unit once, the largest first, such as 1h30m",
            ),
            (
                "1s1s",
                "has `s` out of order; write each unit once, the largest first, such as 1h30m",
            ),
            ("0s", "is zero; write at least 1ms"),
            ("367d", "is longer than 366d"),
            ("99999999999999999999s", "is longer than 366d"),
            ("9999999999999999999d", "is longer than 366d"),
        ] {
            assert_eq!(
                parse_duration(text).unwrap_err().to_string(),
                says,
                "{text}"
            );
        }
    }

    proptest! {
        #[test]
        fn what_is_printed_is_read_back(ms in 1u64..=366 * 86_400_000) {
            let duration = Duration::from_millis(ms);
            prop_assert_eq!(parse_duration(&format_duration(duration)), Ok(duration));
        }

        #[test]
        fn arbitrary_text_never_panics(text in "[0-9a-z.: -]{0,24}|\\PC{0,16}") {
            let _ = parse_duration(&text);
        }
    }
}
