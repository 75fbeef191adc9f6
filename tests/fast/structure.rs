//! The structure of `src/`: imports between files run in one direction, and files stay short.
//!
//! An import is resolved to the file that defines the name, through re-exports. `mod` lines and
//! re-exports are no imports, and neither is anything under `#[cfg(test)]`.

mod circles;
mod imports;

use crate::source::root;
use imports::Sources;

/// Lines of a file, without its tests.
const MAX_LINES: usize = 400;

fn sources() -> Sources {
    Sources::read(&root().join("src"))
}

#[test]
fn no_files_import_each_other_in_a_circle() {
    let sources = sources();
    let imports = sources.imports();
    assert!(imports.len() > 50, "too few imports found: {imports:?}");
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

#[test]
fn no_file_imports_what_is_re_exported_for_users() {
    let taken = sources().taken_from_root();
    assert!(
        taken.is_empty(),
        "import it from where it lives: {taken:#?}"
    );
}

#[test]
fn no_file_is_longer_than_400_lines_without_its_tests() {
    let long: Vec<_> = sources()
        .lines()
        .into_iter()
        .filter(|(_, lines)| *lines > MAX_LINES)
        .collect();
    assert!(long.is_empty(), "{long:?}");
}
