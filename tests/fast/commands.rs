//! The commands that people and documents name exist, and CI runs them.
//!
//! `make fuzz` did not compile for weeks: nobody ran it. `cargo test` with a filter that fits no test passes; `.ci/run` looks
//! for the number of tests.

use crate::source::{files, read, root};
use std::collections::{BTreeMap, BTreeSet};

/// Targets that `.ci/run` does not run, and why it need not.
const NOT_IN_CI: [(&str, &str); 5] = [
    ("help", "prints the list"),
    ("ci", "is .ci/run"),
    ("clean-tools", "removes what CI uses"),
    ("test-fast", "is a part of `make test`"),
    (
        "test-etcds",
        "is `make test-etcd` for each line and user: the workflow has them as a matrix",
    ),
];

const DOCUMENTS: [&str; 8] = [
    "README.md",
    "CONTRIBUTING.md",
    "DESIGN.md",
    "BENCHMARKS.md",
    "src",
    "registryctl",
    "examples",
    "benches",
];

/// The targets of the Makefile, as `make help` lists them.
fn targets() -> BTreeSet<String> {
    let makefile = read("Makefile");
    let lines = makefile.lines().filter(|line| line.contains(": ## "));
    lines
        .filter_map(|line| Some(line.split_once(':')?.0.to_owned()))
        .collect()
}

/// All text that names commands to people: line, and where it is.
fn lines() -> Vec<(String, String)> {
    let texts = DOCUMENTS.iter().flat_map(|part| files(part, &["md", "rs"]));
    let texts = texts.chain(
        [
            "examples/deploy/Dockerfile",
            ".github/workflows/ci.yml",
            ".ci/run",
        ]
        .map(|it| root().join(it)),
    );
    let all = texts.flat_map(|file| {
        let text = read(&file).replace("\\\n", " ");
        let name = file.strip_prefix(root()).unwrap().display().to_string();
        text.lines()
            .map(|line| (name.clone(), line.to_owned()))
            .collect::<Vec<_>>()
    });
    all.collect()
}

/// The words after each `command` of a line, up to the end of the code that it is in.
fn after(line: &str, command: &str) -> Vec<Vec<String>> {
    let starts = line.match_indices(command).filter(|(at, _)| {
        let before = line[..*at].chars().last();
        before.is_none_or(|char| " `(".contains(char))
    });
    let words = |(at, _)| {
        let code = line[at + command.len()..]
            .split(['`', '#', ')', ';'])
            .next();
        code.unwrap_or_default()
            .split_whitespace()
            .map(ToOwned::to_owned)
            .collect()
    };
    starts.map(words).collect()
}

#[test]
fn ci_runs_each_make_target_and_script() {
    let ci = read(".ci/run");
    let steps: Vec<&str> = ci
        .lines()
        .filter(|line| line.starts_with("step ") || line.starts_with("with_go "))
        .collect();
    let runs = |command: &str| steps.iter().any(|step| !after(step, command).is_empty());
    let excepted = |target: &str| NOT_IN_CI.iter().any(|(name, _)| *name == target);
    let targets = targets();
    assert!(targets.len() > 15, "{targets:?}");
    for target in &targets {
        let runs = runs(&format!("make {target}"));
        assert!(
            runs != excepted(target),
            "make {target}: a step of .ci/run, or a line of NOT_IN_CI"
        );
    }
    for (name, _) in NOT_IN_CI {
        assert!(targets.contains(name), "there is no `make {name}`");
    }
    for script in std::fs::read_dir(root().join("scripts")).unwrap() {
        let name = script.unwrap().file_name().into_string().unwrap();
        let is_for_a_test = name == "rustdoc-json";
        assert!(
            is_for_a_test || runs(&format!("scripts/{name}")),
            "scripts/{name}: a step of .ci/run"
        );
    }
}

#[test]
fn each_make_target_that_a_document_names_exists() {
    let (targets, makefile) = (targets(), read("Makefile"));
    let mut named = 0;
    for (file, line) in lines() {
        // In prose `make` is a verb: a command begins the line or the code.
        let code = line.trim_start_matches(['/', '!', ' ', '-']);
        let begins = code
            .strip_prefix("run: ")
            .unwrap_or(code)
            .strip_prefix("make ");
        let is_code =
            line.starts_with("    ") || line.contains("//! make ") || line.contains("run: make ");
        let alone = begins
            .filter(|_| is_code)
            .map(|rest| format!("make {rest}"));
        let quoted = line.split('`').skip(1).step_by(2).map(ToOwned::to_owned);
        for words in quoted.chain(alone).flat_map(|code| after(&code, "make ")) {
            let Some((target, settings)) = words.split_first() else {
                continue;
            };
            named += 1;
            assert!(targets.contains(target), "{file}: make {target}: {line}");
            for name in settings
                .iter()
                .filter_map(|word| Some(word.split_once('=')?.0))
            {
                let mentions = [format!("{name}="), format!("$({name})")];
                let is_known = mentions.iter().any(|it| makefile.contains(it));
                assert!(is_known, "{file}: {name}: {line}");
            }
        }
    }
    assert!(named > 20, "only {named} commands found");
}

#[derive(serde::Deserialize)]
struct Manifest {
    features: BTreeMap<String, BTreeSet<String>>,
    example: Vec<Example>,
}

#[derive(serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Example {
    name: String,
    required_features: BTreeSet<String>,
}

impl Manifest {
    /// Whether `cargo ARGS` finds its examples, with the features that they need, and those know the flags after `--`.
    fn can_run(&self, args: &[String]) -> Result<usize, String> {
        let (ours, given) =
            args.split_at(args.iter().position(|it| it == "--").unwrap_or(args.len()));
        let values = |flag: &'static str| {
            ours.windows(2)
                .filter(move |two| two[0] == flag)
                .map(|two| &*two[1])
        };
        let mut on = self.features["default"].clone();
        for feature in values("--features").flat_map(|it| it.split(',')) {
            let implied = self
                .features
                .get(feature)
                .ok_or(format!("no feature {feature}"))?;
            on.extend(implied.iter().cloned().chain([feature.to_owned()]));
        }
        for name in values("--example") {
            let example = self.example.iter().find(|it| it.name == name);
            let needed = &example
                .ok_or(format!("no example {name}"))?
                .required_features;
            if !needed.is_subset(&on) {
                return Err(format!("{name} needs {needed:?}"));
            }
            let sources = [format!("examples/{name}.rs"), format!("examples/{name}")];
            let sources = sources.iter().flat_map(|path| files(path, &["rs"]));
            let source: String = sources.map(read).collect();
            for flag in given.iter().filter_map(|word| word.strip_prefix("--")) {
                let forms = [
                    format!("{}: ", flag.replace('-', "_")),
                    format!("\"{flag}\""),
                ];
                if !flag.is_empty() && !forms.iter().any(|form| source.contains(form)) {
                    return Err(format!("{name} has no --{flag}"));
                }
            }
        }
        Ok(values("--example").count())
    }
}

#[test]
fn each_cargo_command_that_a_document_names_can_run() {
    let manifest: Manifest = toml::from_str(&read("Cargo.toml")).unwrap();
    let mut found = 0;
    for (file, line) in lines() {
        for command in ["cargo run ", "cargo build ", "cargo install "] {
            for args in after(&line, command) {
                found += manifest
                    .can_run(&args)
                    .unwrap_or_else(|why| panic!("{file}: {why}: {line}"));
            }
        }
    }
    assert!(found > 10, "only {found} commands found");
    let fails = |args: &str| manifest.can_run(&after(args, "cargo run ")[0]).unwrap_err();
    assert_eq!(
        fails("cargo run --example demo"),
        r#"demo needs {"discovery", "health"}"#
    );
    assert_eq!(
        fails("cargo run --example server -- --no"),
        "server has no --no"
    );
}

#[test]
fn a_line_of_etcd_that_is_not_built_here_is_refused_with_the_default() {
    let tools = root().join("scripts/tools");
    let run = std::process::Command::new(tools)
        .arg("true")
        .env("PROTOC", "true")
        .env("ETCD", "3.4")
        .output()
        .unwrap();
    let said = String::from_utf8(run.stderr).unwrap();
    assert!(!run.status.success(), "{said}");
    for part in ["ETCD=3.4", "3.5 3.6 3.7", "Leave ETCD out", "3.4."] {
        assert!(said.contains(part), "no {part:?} in: {said}");
    }
}

#[test]
fn the_rust_of_ci_is_pinned_once() {
    let ci = read(".ci/run");
    let rust = ci
        .lines()
        .find_map(|line| line.strip_prefix("rust="))
        .unwrap();
    let workflow = read(".github/workflows/ci.yml");
    assert!(
        workflow.contains(&format!("rustup default {rust}\n")),
        "{rust}"
    );
    let msrv = format!(
        "rust-version = \"{}\"",
        workflow
            .split("RUSTUP_TOOLCHAIN: \"")
            .nth(1)
            .unwrap()
            .split('"')
            .next()
            .unwrap()
    );
    assert!(read("Cargo.toml").contains(&msrv), "{msrv}");
}
