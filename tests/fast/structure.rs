//! The structure of the sources of every package: imports between files run in one direction, and files stay short.

mod imports;

use crate::source::{files, read, root};
use imports::Sources;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

/// Lines of a file, without its tests.
const MAX_LINES: usize = 400;

/// What is checked of the root package. Tests are not checked: their helpers know each other, and their sentences make long
/// files.
const PARTS: [&str; 3] = ["src", "examples", "benches"];

/// The root file of each crate of the workspace: libraries, programs, examples, benchmarks.
fn crates() -> BTreeSet<PathBuf> {
    let manifest: toml::Table = toml::from_str(&read("Cargo.toml")).unwrap();
    let members = manifest["workspace"]["members"].as_array().unwrap();
    let members = members.iter().map(|member| member.as_str().unwrap());
    let is_root = |file: &PathBuf| {
        let folder = file.parent().unwrap();
        let is_top = folder.ends_with("examples") || folder.ends_with("benches");
        let of_root = file.strip_prefix(root()).unwrap();
        let is_test = of_root.components().any(|part| part.as_os_str() == "tests");
        (is_top || file.ends_with("main.rs") || file.ends_with("lib.rs")) && !is_test
    };
    let of = |folder| {
        let found = files(folder, &["rs"]).into_iter().filter(is_root);
        let found: Vec<_> = found.collect();
        assert!(!found.is_empty(), "no crate in {folder}");
        found
    };
    members.chain(PARTS).flat_map(of).collect()
}

#[test]
fn no_files_import_each_other_in_a_circle() {
    for file in crates() {
        let mut imports = Sources::read(&file).imports();
        let circle = circle(imports.keys());
        imports.retain(|(from, to), _| circle.contains(from) && circle.contains(to));
        assert!(imports.is_empty(), "a circle: {imports:#?}");
    }
    let imports = Sources::read(&root().join("src/lib.rs")).imports();
    assert!(imports.len() > 300, "too few imports: {}", imports.len());
}

/// The nodes on circles, and between them: what is left once nodes without a way in or out are removed, again and again.
fn circle<'a>(edges: impl Iterator<Item = &'a (String, String)>) -> BTreeSet<String> {
    let mut edges: Vec<_> = edges.collect();
    loop {
        let from: BTreeSet<_> = edges.iter().map(|edge| edge.0.clone()).collect();
        let to: BTreeSet<_> = edges.iter().map(|edge| edge.1.clone()).collect();
        let before = edges.len();
        edges.retain(|(a, b)| to.contains(a) && from.contains(b));
        if edges.len() == before {
            return from;
        }
    }
}

#[test]
fn a_circle_is_found_with_all_its_nodes() {
    let edges = [("a", "b"), ("b", "c"), ("c", "a"), ("c", "d"), ("e", "a")];
    let edges = edges.map(|(from, to)| (from.to_owned(), to.to_owned()));
    assert!(circle(edges.iter()).into_iter().eq(["a", "b", "c"]));
    assert!(circle(edges[3..].iter()).is_empty());
}

/// The groups of the library, from the lowest to the highest: a group imports only from those before it.
const GROUPS: [&[&str]; 12] = [
    &["runtime"],
    &["error"],
    &["address"],
    &["instance"],
    &["change"],
    &["format", "etcd"],
    &["observe", "drain"],
    &["registrar", "channel"],
    &["server", "discovery"],
    &["health"],
    &["introspection", "internal", "testing"],
    &["fuzzing"],
];

/// The group of a file of the library, and its index.
fn group(file: &str) -> Option<(&str, usize)> {
    let name = file.strip_prefix("src/")?.split(['/', '.']).next()?;
    let index = GROUPS.iter().position(|names| names.contains(&name));
    let index = || index.unwrap_or_else(|| panic!("{file} is in no group"));
    (name != "lib").then(|| (name, index()))
}

#[test]
fn a_group_of_modules_imports_only_from_lower_groups() {
    let mut imports = Sources::read(&root().join("src/lib.rs")).imports();
    imports.retain(|(from, to), _| match (group(from), group(to)) {
        (Some(from), Some(to)) => from.0 != to.0 && from.1 <= to.1,
        (from, to) => from.is_some() && to.is_none(),
    });
    assert!(imports.is_empty(), "upwards: {imports:#?}");
}

#[test]
fn no_file_is_longer_than_400_lines_without_its_tests() {
    let all: BTreeSet<_> = crates()
        .iter()
        .flat_map(|it| Sources::read(it).files())
        .collect();
    let lines = |file: &String| {
        let text = read(file);
        let code = text.split("\n#[cfg(test)]\nmod ").next();
        (file.clone(), code.unwrap_or_default().lines().count())
    };
    let mut long: BTreeMap<_, _> = all.iter().map(lines).collect();
    assert!(long.len() > 150, "too few files: {}", long.len());
    long.retain(|_, lines| *lines > MAX_LINES);
    assert!(long.is_empty(), "{long:?}");
}
