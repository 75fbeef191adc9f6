//! The files of this repository, for tests that read them.

use std::path::{Path, PathBuf};
use syn::{Attribute, Item};

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

/// Whether it is under `#[cfg(name)]`.
pub fn has_cfg(attributes: &[Attribute], name: &str) -> bool {
    attributes.iter().any(|attribute| {
        let condition = attribute.parse_args::<syn::Path>();
        attribute.path().is_ident("cfg") && condition.is_ok_and(|path| path.is_ident(name))
    })
}

pub fn name_of(item: &Item) -> Option<String> {
    let name = match item {
        Item::Const(it) => &it.ident,
        Item::Enum(it) => &it.ident,
        Item::Fn(it) => &it.sig.ident,
        Item::Macro(it) => it.ident.as_ref()?,
        Item::Static(it) => &it.ident,
        Item::Struct(it) => &it.ident,
        Item::Trait(it) => &it.ident,
        Item::Type(it) => &it.ident,
        _ => return None,
    };
    Some(name.to_string())
}
