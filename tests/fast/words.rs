//! Words that only this project used do not come back. CONTRIBUTING.md has the standard ones.

use crate::source::{files, read, root};

/// The files that are checked.
const READ: &str = "src registryctl etcd-fake support examples tests benches fuzz proto \
    Cargo.toml README.md DESIGN.md CHANGELOG.md CONTRIBUTING.md BENCHMARKS.md";

/// Each is found alone and at the beginning of a word of a name: `mistrust` in `self.mistrusts()` and `MistrustState`.
const WORDS: &str = "bell_ blink brisk crowd despair distrust doctored doubtful excuse fate_ haunt heard_ hurr impatient judge \
    lead_out litter meddl mistrust owed_ reign roster sever_ severed step_down straggler tended tends_ tenure truthfully \
    tug_of_war turned_down unheard unrouted unsettled witness worr zombie";

#[test]
fn no_word_that_only_this_project_knew_is_left() {
    let texts = ["rs", "md", "txt", "toml", "proto", "go"];
    let files: Vec<_> = READ
        .split_whitespace()
        .flat_map(|part| files(part, &texts))
        .chain([root().join("scripts/tools")])
        .collect();
    assert!(files.len() > 250, "too few files: {}", files.len());
    let mut found = vec![];
    for file in files.iter().filter(|file| !file.ends_with("words.rs")) {
        let (name, text) = (file.display().to_string(), read(file));
        let lines = text.lines().filter_map(|line| Some((line, banned(line)?)));
        found.extend(lines.map(|(line, word)| format!("{name}: {word}: {line}")));
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
}

fn banned(line: &str) -> Option<&'static str> {
    let words = normalized(line);
    let has = |word: &&str| words.contains(&format!("_{word}"));
    WORDS.split_whitespace().find(has)
}

/// The words of a line, each after an underscore: `HealthState` gives `_health_state_`.
fn normalized(line: &str) -> String {
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
    words + "_"
}

#[test]
fn a_word_is_found_alone_and_within_a_name() {
    for (line, is_found) in [
        ("a tug-of-war", true),
        ("struct HealthWitness;", true),
        ("self.worry(call)", true),
        ("severed, to sever", true),
        ("several; foreign", false),
    ] {
        assert_eq!(banned(line).is_some(), is_found, "{line}");
    }
}
