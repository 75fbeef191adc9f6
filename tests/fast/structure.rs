//! The structure of the sources: imports between files run in one direction, and files stay short.
//!
//! An import is resolved to the file that defines the name, through re-exports. `mod` lines and
//! re-exports are no imports, and neither is anything under `#[cfg(test)]`.

mod circles;
mod imports;

use crate::source::{files, root};
use imports::Sources;
use std::collections::BTreeMap;
use std::path::PathBuf;

/// Lines of a file, without its tests.
const MAX_LINES: usize = 400;

/// What is checked. Tests are not: their helpers know each other, and their sentences make long files.
const PARTS: [&str; 5] = [
    "src",
    "etcd-fake/src",
    "examples",
    "benches",
    "registryctl/src",
];

/// The root file of each crate: the library, examples, benchmarks, the program.
fn crates() -> Vec<PathBuf> {
    let roots = ["src", "examples", "benches"].map(|part| root().join(part));
    let is_root = |file: &PathBuf| {
        let is_top = roots.iter().any(|folder| file.parent() == Some(folder));
        let (in_src, name) = (file.parent() == Some(&roots[0]), file.file_name().unwrap());
        name == "main.rs" || name == "lib.rs" || (is_top && !in_src)
    };
    let all = PARTS.iter().flat_map(|part| files(part, &["rs"]));
    all.filter(is_root).collect()
}

fn is_checked(file: &str) -> bool {
    PARTS.iter().any(|part| file.starts_with(part))
}

#[test]
fn no_files_import_each_other_in_a_circle() {
    let mut imports = BTreeMap::new();
    for file in crates() {
        let all = Sources::read(&file).imports().into_iter();
        imports.extend(all.filter(|((from, _), _)| is_checked(from)));
    }
    for (part, least) in [
        ("src", 300),
        ("registryctl/src", 60),
        ("examples", 20),
        ("benches", 40),
        ("etcd-fake", 40),
    ] {
        let is_here = |(from, _): &&(String, String)| from.starts_with(part);
        let found = imports.keys().filter(is_here).count();
        assert!(found >= least, "{part}: too few imports found: {found}");
    }
    let circles: Vec<Vec<String>> = circles::find(imports.keys())
        .into_iter()
        .map(Vec::from_iter)
        .collect();
    let named: Vec<String> = circles
        .iter()
        .map(|circle| {
            let inside = imports
                .iter()
                .filter(|((from, to), _)| circle.contains(from) && circle.contains(to));
            let lines = inside.map(|((from, to), names)| format!("  {from} -> {to}: {names:?}"));
            lines.collect::<Vec<_>>().join("\n")
        })
        .collect();
    assert!(circles.is_empty(), "circles:\n{}", named.join("\n\n"));
}

/// The groups of the library, from the lowest to the highest: a group imports only from those before it.
const GROUPS: [&[&str]; 9] = [
    &["runtime"],
    &["error", "address", "instance", "change"],
    &["format", "etcd"],
    &["observe", "drain"],
    &["registrar", "channel"],
    &["server", "discovery"],
    &["health"],
    &["introspection", "testing", "internal"],
    &["fuzzing"],
];

/// The index in [`GROUPS`] of a file of the library.
fn group(file: &str) -> Option<usize> {
    let name = file.strip_prefix("src/")?.split('/').next()?;
    let name = name.strip_suffix(".rs").unwrap_or(name);
    (!matches!(name, "lib" | "bin")).then(|| {
        let has = |names: &&[&str]| names.contains(&name);
        let index = GROUPS.iter().position(has);
        index.unwrap_or_else(|| panic!("{file} is in no group"))
    })
}

#[test]
fn a_group_of_modules_imports_only_from_lower_groups() {
    let imports = Sources::read(&root().join("src/lib.rs")).imports();
    let name = |file: &str| file.split('/').nth(1).map(str::to_owned);
    let upwards: Vec<_> = imports
        .iter()
        .filter(|((from, to), _)| name(from) != name(to))
        .filter(|((from, to), _)| group(from).is_some() && group(from) <= group(to))
        .collect();
    assert!(upwards.is_empty(), "{upwards:#?}");
}

#[test]
fn no_file_imports_what_is_re_exported_for_users() {
    let taken: Vec<_> = ["src/lib.rs", "registryctl/src/main.rs"]
        .iter()
        .flat_map(|file| Sources::read(&root().join(file)).taken_from_root())
        .collect();
    assert!(
        taken.is_empty(),
        "import it from where it lives: {taken:#?}"
    );
}

#[test]
fn no_file_is_longer_than_400_lines_without_its_tests() {
    let all = crates();
    let lines = all.iter().flat_map(|file| Sources::read(file).lines());
    let lines: BTreeMap<String, usize> = lines.filter(|(file, _)| is_checked(file)).collect();
    assert!(lines.len() > 150, "too few files: {}", lines.len());
    let long: Vec<_> = lines
        .iter()
        .filter(|(_, lines)| **lines > MAX_LINES)
        .collect();
    assert!(long.is_empty(), "{long:?}");
}
