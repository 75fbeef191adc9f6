//! The files of this repository, for tests that read them.

use std::path::{Path, PathBuf};
use syn::Attribute;

pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

pub fn read(path: impl AsRef<Path>) -> String {
    let path = root().join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path:?}: {error}"))
}

/// The file at a path, or the files below it, with one of these endings.
pub fn files(path: impl AsRef<Path>, endings: &[&str]) -> Vec<PathBuf> {
    let path = root().join(path);
    let ending = path.extension().and_then(|ending| ending.to_str());
    let is_wanted = ending.is_some_and(|ending| endings.contains(&ending));
    let mut found = vec![];
    if is_wanted && path.is_file() {
        found.push(path.clone());
    }
    if path.file_name().is_some_and(|name| name != "target") {
        let entries = std::fs::read_dir(&path).into_iter().flatten();
        found.extend(entries.flat_map(|entry| files(entry.unwrap().path(), endings)));
    }
    found
}

/// The parsed file.
pub fn parse(file: &Path) -> syn::File {
    syn::parse_file(&read(file)).unwrap_or_else(|error| panic!("{file:?}: {error}"))
}

/// Whether it is under `#[cfg(test)]` or `#[cfg(all(test, ..))]`.
pub fn is_test(attributes: &[Attribute]) -> bool {
    let mut conditions = attributes.iter().filter(|it| it.path().is_ident("cfg"));
    conditions.any(|it| {
        let condition = it.meta.require_list().unwrap().tokens.to_string();
        condition == "test" || condition.starts_with("all (test ,")
    })
}
