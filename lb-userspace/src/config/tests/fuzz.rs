//! Any text gets an answer.

use proptest::prelude::*;

use super::parse;

const FULL: &str = include_str!("../../../../examples/weir.toml");

/// Pieces that send the reader down unusual paths.
const PIECES: &[&str] = &[
    "",
    "=",
    "\"",
    "[",
    "]]",
    "{",
    "}",
    "[[service]]",
    "[pool.health]",
    "-1",
    "0",
    "99999999999999999999999",
    "1e400",
    "nan",
    "\"any\"",
    "\"80-\"",
    "[]",
    "{}",
    "true",
    "1979-05-27",
    "\u{0}",
    "é",
    "\\u0000",
    "\n",
    "'''",
    "\"0s\"",
    "\"::\"",
    "\"0.0.0.0/0\"",
    "\"400000000h\"",
    "name = ",
    "[[pool.backend]]",
];

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn mutated_configurations_are_answered_and_never_panic(
        edits in prop::collection::vec((any::<prop::sample::Index>(), 0usize..30, 0..PIECES.len()), 1..6)
    ) {
        let mut text: Vec<char> = FULL.chars().collect();
        for (at, length, piece) in edits {
            let start = at.index(text.len());
            let end = (start + length).min(text.len());
            text.splice(start..end, PIECES[piece].chars());
        }
        let text: String = text.into_iter().collect();
        if let Err(problems) = parse(&text) {
            prop_assert!(problems.errors().next().is_some());
            for problem in &problems.0 {
                prop_assert!(!problem.message.is_empty());
                prop_assert!(problem.line.is_some_and(|line| line >= 1));
            }
        }
    }

    #[test]
    fn values_replaced_one_by_one_are_answered_and_never_panic(
        line in any::<prop::sample::Index>(), piece in 0..PIECES.len()
    ) {
        let mut lines: Vec<String> = FULL.lines().map(str::to_owned).collect();
        let keyed: Vec<usize> = (0..lines.len()).filter(|i| lines[*i].contains(" = ")).collect();
        let chosen = keyed[line.index(keyed.len())];
        let key = lines[chosen].split(" = ").next().unwrap_or_default().to_owned();
        lines[chosen] = format!("{key} = {}", PIECES[piece]);
        if let Err(problems) = parse(&lines.join("\n")) {
            prop_assert!(problems.errors().next().is_some());
        }
    }
}
