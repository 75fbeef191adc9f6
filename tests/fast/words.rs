//! The project uses the standard terms of the field: words that only this project used are banned.
//!
//! CONTRIBUTING.md has the glossary. Each word here was replaced by a standard one. The test finds a word alone
//! and as a part of a name, also in file names.

use crate::source;

/// The files that are checked.
const READ: [&str; 16] = [
    "src",
    "etcd-fake",
    "registryctl",
    "examples",
    "tests",
    "benches",
    "fuzz",
    "scripts",
    "support",
    "proto",
    "Cargo.toml",
    "README.md",
    "DESIGN.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "BENCHMARKS.md",
];

/// Each word, with its replacement.
const WORDS: [(&str, &str); 58] = [
    ("bell", "notifier"),
    ("blink", "gap"),
    ("brisk", "a limit with its unit"),
    ("briskly", "a limit with its unit"),
    ("calm", "quiet period, or reset_after"),
    ("crowd", "how many there are"),
    ("despair", "on_lease_expired"),
    ("despairs", "on_lease_expired"),
    ("distrust", "self-preservation"),
    ("distrusts", "self-preservation"),
    ("doctored", "tests of the checker"),
    ("doubtful", "unverified"),
    ("excuse", "allowance"),
    ("excuses", "allowance"),
    ("excused", "allowed"),
    ("fate", "retry safety"),
    ("haunt", "write_may_still_land"),
    ("haunted", "write_may_still_land"),
    ("haunts", "write_may_still_land"),
    ("heard", "received, or acknowledged"),
    ("hurry", "shutdown_now"),
    ("hurried", "shutdown_now"),
    ("impatient", "shutdown_now"),
    ("judge", "check"),
    ("judged", "checked"),
    ("judges", "checkers"),
    ("keeper", "worker"),
    ("lead_out", "begin_deregister"),
    ("litter", "orphaned leases and keys"),
    ("meddle", "what is changed"),
    ("meddling", "what is changed"),
    ("mistrust", "self-preservation"),
    ("owed", "orphaned_lease"),
    ("reign", "run_lease"),
    ("reigns", "run_lease"),
    ("roster", "ReadySet"),
    ("sever", "abort_connections"),
    ("severed", "aborted"),
    ("step_down", "release_lease"),
    ("straggler", "still missing"),
    ("stragglers", "still missing"),
    ("tended", "AbortOnDropHandle"),
    ("tends", "reconnects"),
    ("tenure", "lease session"),
    ("truthfully", "what is promised, in figures"),
    ("tug_of_war", "repeated overwrites"),
    ("turned_down", "on_write_rejected"),
    ("unheard", "unanswered"),
    ("unrouted", "needs_local_ip"),
    ("unsettled", "buffered event"),
    ("witness", "observer, or health acknowledgement"),
    ("witnesses", "observers"),
    ("witnessed", "observed, or acknowledged"),
    ("worried", "degraded"),
    ("worries", "set_degraded"),
    ("worry", "set_degraded"),
    ("zombie", "late write"),
    ("zombies", "late writes"),
];

/// Names that are not ours: a type of etcd-client, and an error code of HTTP/2.
const FOREIGN: [&str; 2] = ["LeaseKeeper", "ENHANCE_YOUR_CALM"];

#[test]
fn no_word_that_only_this_project_knew_is_left() {
    let texts = ["rs", "md", "txt", "toml", "proto", "go"];
    let files = READ.iter().flat_map(|part| source::files(part, &texts));
    let files: Vec<_> = files
        .chain([source::root().join("scripts/tools")])
        .collect();
    assert!(files.len() > 250, "too few files: {}", files.len());
    let mut found = vec![];
    for file in files {
        let name = file.strip_prefix(source::root()).unwrap();
        let (name, text) = (name.display().to_string(), source::read(&file));
        if name == "tests/fast/words.rs" {
            continue;
        }
        // Line 0 is the name of the file.
        for (number, line) in std::iter::once(&*name).chain(text.lines()).enumerate() {
            let words = normalized(line);
            let hits = WORDS.iter().filter(|(word, _)| has(&words, word));
            found.extend(hits.map(|(word, say)| format!("{name}:{number}: {word}: say {say}")));
        }
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
}

/// The words of a line, each between two underscores: `HealthState` gives `_health_state_`.
fn normalized(line: &str) -> String {
    let line = FOREIGN
        .iter()
        .fold(line.to_owned(), |line, name| line.replace(name, ""));
    let mut words = "_".to_owned();
    let mut was_lower = false;
    for char in line.chars() {
        if !char.is_alphanumeric() || (char.is_uppercase() && was_lower) {
            words.push('_');
        }
        if char.is_alphanumeric() {
            words.extend(char.to_lowercase());
        }
        was_lower = char.is_lowercase();
    }
    words.push('_');
    words
}

fn has(words: &str, word: &str) -> bool {
    words
        .match_indices(word)
        .any(|(at, _)| words[..at].ends_with('_') && words[at + word.len()..].starts_with('_'))
}

#[test]
fn a_word_is_found_alone_and_within_a_name() {
    let found = |line: &str, word: &str| has(&normalized(line), word);
    assert!(found("the fate of it", "fate"));
    assert!(found("self.fate_of(call)", "fate"));
    assert!(found("struct HealthWitness;", "witness"));
    assert!(found("a tug-of-war", "tug_of_war"));
    assert!(!found("fateful, and several", "fate"));
    assert!(!found("several", "sever"));
    assert!(!found("use client::LeaseKeeper;", "keeper"));
}
