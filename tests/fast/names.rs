//! Names of tests are short sentences, and invariants have the same ids everywhere.

use crate::source::{files, read};
use std::collections::BTreeSet;

/// The name of a test must have fewer characters.
const MAX_NAME: usize = 70;

/// The files that use the ids of invariants.
const CHECKERS: [&str; 6] = [
    "src/failures.md",
    "tests/fast/fleet.rs",
    "tests/fast/channel_soak.rs",
    "tests/fast/soak",
    "tests/fast/discovery_soak.rs",
    "src/registrar/simulation",
];

#[test]
fn names_of_tests_are_shorter_than_70_characters() {
    let (mut tests, mut long) = (0, vec![]);
    let parts = [
        "src",
        "etcd-fake",
        "tests",
        "benches",
        "examples",
        "support",
    ];
    for file in parts.iter().flat_map(|part| files(part, &["rs"])) {
        let text = read(&file);
        let mut lines = text.lines().map(str::trim);
        while let Some(line) = lines.next() {
            if !line.starts_with("#[test]") && !line.starts_with("#[tokio::test") {
                continue;
            }
            let name = lines.find_map(|line| line.split_once("fn ")?.1.split_once('('));
            let (name, _) = name.unwrap_or_else(|| panic!("{}: no test", file.display()));
            tests += 1;
            if name.len() >= MAX_NAME {
                long.push(format!("{}: {name}: {}", file.display(), name.len()));
            }
        }
    }
    assert!(tests > 400, "too few tests found: {tests}");
    assert!(long.is_empty(), "{}", long.join("\n"));
}

#[test]
fn the_checkers_use_the_ids_of_the_invariants_in_the_design() {
    let design = read("DESIGN.md");
    let rows = design.lines().filter_map(|line| line.strip_prefix("| I"));
    let listed: Vec<u32> = rows
        .filter_map(|row| row.split(' ').next()?.parse().ok())
        .collect();
    assert!(
        listed.iter().copied().eq(1..=listed.len() as u32) && !listed.is_empty(),
        "not one after the other: {listed:?}"
    );
    let checkers = CHECKERS.iter().flat_map(|it| files(it, &["rs", "md"]));
    let mut used: BTreeSet<_> = checkers.flat_map(|file| ids(&read(file))).collect();
    // I11 is checked by a fleet under load.
    used.insert(11);
    assert_eq!(Vec::from_iter(used), listed);
}

/// The ids in a text: an I and a number, as a word.
fn ids(text: &str) -> BTreeSet<u32> {
    let words = text.split(|char: char| !char.is_alphanumeric() && char != '_');
    words
        .filter_map(|word| word.strip_prefix('I')?.parse().ok())
        .collect()
}
