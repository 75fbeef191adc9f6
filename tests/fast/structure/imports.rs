//! Reads the source files of a crate and resolves what each imports to the file that defines it, through re-exports.
//!
//! `mod` lines and re-exports are no imports, and neither is anything in a module or an import under `#[cfg(test)]`.

use crate::source::{self, is_test};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use syn::visit::{self, Visit};
use syn::{Item, ItemMod, ItemUse, UseTree, Visibility};

type Names = Vec<String>;

/// Every module of the crate, by its path.
pub(super) struct Sources(BTreeMap<Names, Module>);

/// One file, or one inline module of a file.
#[derive(Default)]
struct Module {
    file: String,
    /// What each imported or re-exported name stands for.
    aliases: BTreeMap<String, Names>,
    /// Paths that are named in the code, imports included, re-exports not.
    paths: BTreeSet<Names>,
    /// Modules that are not read.
    left_out: BTreeSet<String>,
}

// === impl Sources ===

impl Sources {
    /// The crate with this root, such as `src/lib.rs`.
    pub(super) fn read(root: &Path) -> Self {
        let mut sources = Self(BTreeMap::new());
        sources.read_file(root.parent().unwrap(), root, vec![]);
        sources
    }

    pub(super) fn files(&self) -> BTreeSet<String> {
        self.0.values().map(|module| module.file.clone()).collect()
    }

    /// Each pair of files of which the first imports from the second, with the names.
    pub(super) fn imports(&self) -> BTreeMap<(String, String), BTreeSet<String>> {
        let mut imports: BTreeMap<_, BTreeSet<String>> = BTreeMap::new();
        for (at, module) in &self.0 {
            for path in &module.paths {
                if let Some((file, name)) = self.resolve(at, path)
                    && file != module.file
                {
                    let edge = (module.file.clone(), file);
                    imports.entry(edge).or_default().insert(name);
                }
            }
        }
        imports
    }

    /// The file that defines what `path` means in the module `at`, and the name there; `None`: another crate.
    fn resolve(&self, at: &[String], path: &[String]) -> Option<(String, String)> {
        let (first, rest) = path.split_first()?;
        match first.as_str() {
            "crate" => self.follow(vec![], rest),
            "self" => self.follow(at.to_vec(), rest),
            "super" => {
                let (_, parent) = at.split_last()?;
                match rest {
                    [next, ..] if next == "super" => self.resolve(parent, rest),
                    _ => self.follow(parent.to_vec(), rest),
                }
            }
            _ => {
                let is_child = self.0.contains_key(&[at, &path[..1]].concat());
                let alias = self.0.get(at)?.aliases.get(first);
                let is_alias = alias.is_some_and(|to| to != path && to[0] != *first);
                (is_child || is_alias).then(|| self.follow(at.to_vec(), path))?
            }
        }
    }

    /// Goes down from a module, and through its aliases.
    fn follow(&self, mut module: Names, mut path: &[String]) -> Option<(String, String)> {
        while let Some((first, rest)) = path.split_first() {
            let child = [&module[..], std::slice::from_ref(first)].concat();
            if self.0.contains_key(&child) {
                (module, path) = (child, rest);
            } else if let Some(alias) = self.0.get(&module)?.aliases.get(first) {
                return self.resolve(&module, &[alias, rest].concat());
            } else if self.0.get(&module)?.left_out.contains(first) {
                return None;
            } else {
                break;
            }
        }
        let name = path.first().or(module.last()).cloned();
        Some((self.0.get(&module)?.file.clone(), name.unwrap_or_default()))
    }

    fn read_file(&mut self, directory: &Path, file: &Path, path: Names) {
        let name = file.strip_prefix(source::root()).unwrap();
        let name = name.display().to_string();
        self.read_module(directory, name, path, &source::parse(file).items);
    }

    fn read_module(&mut self, directory: &Path, file: String, path: Names, items: &[Item]) {
        let mut module = Module {
            file: file.clone(),
            ..Module::default()
        };
        for item in items {
            match item {
                Item::Mod(inner) if is_left_out(inner) => {
                    module.left_out.insert(inner.ident.to_string());
                }
                Item::Mod(inner) => {
                    let inside = directory.join(inner.ident.to_string());
                    let path = [&path[..], &[inner.ident.to_string()]].concat();
                    if let Some((_, items)) = &inner.content {
                        self.read_module(&inside, file.clone(), path, items);
                        continue;
                    }
                    let own = Some(inside.join("mod.rs")).filter(|file| file.exists());
                    let own = own.unwrap_or_else(|| inside.with_extension("rs"));
                    self.read_file(&inside, &own, path);
                }
                other => module.visit_item(other),
            }
        }
        self.0.insert(path, module);
    }
}

/// Tests, and a file that another crate has too.
fn is_left_out(module: &ItemMod) -> bool {
    let mut attributes = module.attrs.iter();
    is_test(&module.attrs) || attributes.any(|it| it.path().is_ident("path"))
}

// === impl Module ===

impl Module {
    /// Every path of a `use`, with the name that it gets here.
    fn import(&mut self, tree: &UseTree, mut path: Names, is_reexport: bool) {
        let mut add = |mut path: Names, ident: &syn::Ident, name: &syn::Ident| {
            if ident != "self" || path.is_empty() {
                path.push(ident.to_string());
            }
            let name = match name == "self" {
                true => path.last().unwrap().clone(),
                false => name.to_string(),
            };
            if path != [&*name] {
                if !is_reexport {
                    self.paths.insert(path.clone());
                }
                self.aliases.insert(name, path);
            }
        };
        match tree {
            UseTree::Name(leaf) => add(path, &leaf.ident, &leaf.ident),
            UseTree::Rename(leaf) => add(path, &leaf.ident, &leaf.rename),
            UseTree::Path(inner) => {
                path.push(inner.ident.to_string());
                self.import(&inner.tree, path, is_reexport);
            }
            UseTree::Group(group) => {
                for tree in &group.items {
                    self.import(tree, path.clone(), is_reexport);
                }
            }
            // Only tests have globs of our own modules.
            UseTree::Glob(_) => {}
        }
    }
}

impl Visit<'_> for Module {
    fn visit_path(&mut self, path: &syn::Path) {
        let names: Names = path
            .segments
            .iter()
            .map(|it| it.ident.to_string())
            .collect();
        if names.len() > 1 {
            self.paths.insert(names);
        }
        visit::visit_path(self, path);
    }

    fn visit_item_use(&mut self, import: &ItemUse) {
        if !is_test(&import.attrs) {
            let is_reexport = !matches!(import.vis, Visibility::Inherited);
            self.import(&import.tree, vec![], is_reexport);
        }
    }

    // Links in documentation and `pub(in path)` are no imports.
    fn visit_attribute(&mut self, _: &syn::Attribute) {}
    fn visit_visibility(&mut self, _: &Visibility) {}
}
