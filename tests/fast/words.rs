//! The project speaks the field's language: words that only this project knew stay out.
//!
//! CONTRIBUTING.md has the glossary. The words here were names once, and each has a standard one.

use std::path::{Path, PathBuf};

/// The parts of the project that people read.
const READ: [&str; 10] = [
    "src",
    "examples",
    "tests",
    "benches",
    "fuzz",
    "README.md",
    "DESIGN.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "BENCHMARKS.md",
];

/// Each word with the one to use instead.
const WORDS: [(&str, &str); 33] = [
    ("reign", "run_lease"),
    ("despair", "on_lease_expired"),
    ("haunted", "write_may_still_land"),
    ("witness", "health acknowledgement"),
    ("witnessed", "acknowledged"),
    ("worry", "set_degraded"),
    ("worried", "degraded"),
    ("owed", "orphaned_lease"),
    ("fate", "retry safety"),
    ("straggler", "still missing"),
    ("stragglers", "still missing"),
    ("hurry", "shutdown_now"),
    ("impatient", "shutdown_now"),
    ("lead_out", "begin_deregister"),
    ("step_down", "release_lease"),
    ("turned_down", "on_write_rejected"),
    ("doubtful", "unverified"),
    ("distrust", "self-preservation"),
    ("mistrust", "self-preservation"),
    ("doctored", "checker tests"),
    ("sever", "abort_connections"),
    ("severed", "aborted"),
    ("tended", "AbortOnDropHandle"),
    ("roster", "ReadySet"),
    ("tenure", "lease session"),
    ("keeper", "worker"),
    ("unrouted", "needs_local_ip"),
    ("unsettled", "buffered event"),
    ("truthfully", "what is promised, in figures"),
    ("tug-of-war", "repeated overwrites"),
    ("brisk", "a limit with its unit"),
    ("blink", "gap"),
    ("litter", "orphaned leases and keys"),
];

#[test]
fn no_word_that_only_this_project_knew_is_left() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = vec![];
    for part in READ {
        collect(&root.join(part), &mut files);
    }
    assert!(files.len() > 100, "too few files found: {files:?}");
    let mut found = vec![];
    for file in files.iter().filter(|file| !file.ends_with(file!())) {
        let name = file.strip_prefix(root).unwrap().display().to_string();
        let text = std::fs::read_to_string(file).unwrap_or_default();
        let named = name.replace(['/', '.'], " ");
        for (number, line) in std::iter::once(&*named).chain(text.lines()).enumerate() {
            let line = line.to_lowercase();
            for (word, instead) in WORDS {
                if has_word(&line, word) {
                    found.push(format!("{name}:{number}: {word}, say {instead}"));
                }
            }
        }
    }
    assert!(
        found.is_empty(),
        "{} found:\n{}",
        found.len(),
        found.join("\n")
    );
}

/// Whether `word` stands in `line` by itself or as a part of a name in snake case.
fn has_word(line: &str, word: &str) -> bool {
    line.match_indices(word).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        let after = line[at + word.len()..].chars().next();
        !before.is_some_and(char::is_alphanumeric) && !after.is_some_and(char::is_alphanumeric)
    })
}

fn collect(path: &Path, files: &mut Vec<PathBuf>) {
    if path.is_file() {
        let read = ["rs", "md", "toml", "proto", "go"];
        if path
            .extension()
            .is_some_and(|end| read.iter().any(|read| end == *read))
        {
            files.push(path.to_owned());
        }
        return;
    }
    for entry in std::fs::read_dir(path).into_iter().flatten().flatten() {
        if entry.file_name() != "target" {
            collect(&entry.path(), files);
        }
    }
}

#[test]
fn a_word_is_found_alone_and_within_a_name() {
    assert!(has_word("the fate of it", "fate"));
    assert!(has_word("self.fate_of(call)", "fate"));
    assert!(!has_word("fateful, and several", "fate"));
    assert!(!has_word("several", "sever"));
}
