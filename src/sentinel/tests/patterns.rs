//! Patterns, against cases and against a plain recursive reading of the same rules.

use crate::sentinel::fits;
use proptest::prelude::*;

#[test]
fn patterns_fit_as_in_redis() {
    let cases = [
        ("*", "", true),
        ("*", "+switch-master", true),
        ("+switch-*", "+switch-master", true),
        ("+switch-*", "-switch-master", false),
        ("?switch-master", "+switch-master", true),
        ("[+-]sdown", "-sdown", true),
        ("[^+]sdown", "+sdown", false),
        ("[a-c]x", "bx", true),
        ("[c-a]x", "bx", true),
        ("\\*", "*", true),
        ("\\*", "a", false),
        ("a*b*c", "aXbYc", true),
        ("a*b*c", "aXbY", false),
        ("", "", true),
        ("", "a", false),
        ("[", "[", false),
        ("[a", "a", true),
        ("**a", "bba", true),
    ];
    for (pattern, text, meant) in cases {
        assert_eq!(fits(pattern.as_bytes(), text.as_bytes()), meant, "{pattern} on {text}");
    }
}

fn slow(pattern: &[u8], text: &[u8]) -> bool {
    match (pattern, text) {
        ([], _) => text.is_empty(),
        ([b'*', rest @ ..], _) => (0..=text.len()).any(|taken| slow(rest, &text[taken..])),
        (_, []) => false,
        ([b'?', rest @ ..], [_, after @ ..]) => slow(rest, after),
        ([plain, rest @ ..], [byte, after @ ..]) => plain == byte && slow(rest, after),
    }
}

proptest! {
    #[test]
    fn stars_are_read_without_trying_everything(pattern in "[ab*?]{0,8}", text in "[ab]{0,12}") {
        prop_assert_eq!(fits(pattern.as_bytes(), text.as_bytes()), slow(pattern.as_bytes(), text.as_bytes()));
    }

    #[test]
    fn any_pattern_ends(pattern in proptest::collection::vec(any::<u8>(), 0..200), text in proptest::collection::vec(any::<u8>(), 0..60)) {
        let _ = fits(&pattern, &text);
    }
}
