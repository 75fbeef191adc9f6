//! Reads the source files of the crate and resolves what each imports to the file that defines it.

use crate::source::{self, has_cfg, name_of};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use syn::visit::{self, Visit};
use syn::{Attribute, Item, ItemUse, UseTree};

type ModulePath = Vec<String>;

/// Every module of the crate.
pub(super) struct Sources {
    modules: BTreeMap<ModulePath, Module>,
}

/// One file, or one inline module of a file.
struct Module {
    file: String,
    lines: usize,
    defined: BTreeSet<String>,
    /// What each imported or re-exported name stands for.
    aliases: BTreeMap<String, Vec<String>>,
    globs: Vec<Vec<String>>,
    /// Paths that are named in the code, imports included, re-exports not.
    paths: BTreeSet<Vec<String>>,
}

// === impl Sources ===

impl Sources {
    /// The crate with this root, such as `src/lib.rs`.
    pub(super) fn read(root: &Path) -> Self {
        let mut sources = Self {
            modules: BTreeMap::new(),
        };
        sources.read_file(root.parent().unwrap(), root, vec![]);
        sources
    }

    /// Each pair of files of which the first imports from the second, with the names.
    pub(super) fn imports(&self) -> BTreeMap<(String, String), BTreeSet<String>> {
        let mut imports: BTreeMap<_, BTreeSet<String>> = BTreeMap::new();
        for (path, module) in &self.modules {
            for named in &module.paths {
                let Some((file, name)) = self.resolve(path, named, 0) else {
                    continue;
                };
                if file != module.file {
                    let edge = (module.file.clone(), file);
                    imports.entry(edge).or_default().insert(name);
                }
            }
        }
        imports
    }

    /// Each file that imports a name from the root of the crate although it is defined elsewhere, with the path.
    pub(super) fn taken_from_root(&self) -> Vec<(String, String)> {
        let root = &self.modules[&vec![]];
        let mut taken = vec![];
        for module in self.modules.values() {
            for path in &module.paths {
                let [first, name, ..] = &path[..] else {
                    continue;
                };
                if first == "crate" && root.aliases.contains_key(name) {
                    taken.push((module.file.clone(), path.join("::")));
                }
            }
        }
        taken
    }

    /// How many lines each file has without its tests.
    pub(super) fn lines(&self) -> BTreeMap<String, usize> {
        let modules = self.modules.values();
        modules.map(|m| (m.file.clone(), m.lines)).collect()
    }

    /// The file that defines what `path` means in the module `at`, and the name there.
    fn resolve(&self, at: &[String], path: &[String], depth: usize) -> Option<(String, String)> {
        let (mut module, mut rest) = self.start(at, path)?;
        while let Some((first, more)) = rest.split_first() {
            let mut child = module.clone();
            child.push(first.clone());
            if !self.modules.contains_key(&child) {
                break;
            }
            (module, rest) = (child, more);
        }
        let found = &self.modules[&module];
        let Some((name, more)) = rest.split_first() else {
            let name = module.last().cloned().unwrap_or_default();
            return Some((found.file.clone(), name));
        };
        if found.defined.contains(name) || depth > 8 {
            return Some((found.file.clone(), name.clone()));
        }
        if let Some(alias) = found.aliases.get(name) {
            let mut full = alias.clone();
            full.extend_from_slice(more);
            return self.resolve(&module, &full, depth + 1);
        }
        found.globs.iter().find_map(|glob| {
            let mut full = glob.clone();
            full.extend_from_slice(rest);
            self.resolve(&module, &full, depth + 1)
        })
    }

    /// The module that a path begins in, and what follows; `None` for other crates.
    fn start<'a>(&self, at: &[String], path: &'a [String]) -> Option<(ModulePath, &'a [String])> {
        let (first, rest) = path.split_first()?;
        match first.as_str() {
            "crate" => return Some((vec![], rest)),
            "self" => return Some((at.to_vec(), rest)),
            "super" => {
                let (mut module, mut rest) = (at.to_vec(), path);
                while rest.first().is_some_and(|segment| segment == "super") {
                    module.pop()?;
                    rest = &rest[1..];
                }
                return Some((module, rest));
            }
            _ => {}
        }
        let mut child = at.to_vec();
        child.push(first.clone());
        let module = self.modules.get(at)?;
        let known = self.modules.contains_key(&child)
            || module
                .aliases
                .get(first)
                .is_some_and(|to| to != path && to[0] != *first);
        known.then(|| (at.to_vec(), path))
    }

    fn read_file(&mut self, directory: &Path, file: &Path, path: ModulePath) {
        let (text, parsed) = (source::read(file), source::parse(file));
        let name = file.strip_prefix(source::root()).unwrap();
        let name = name.display().to_string();
        let tests = text.find("\n#[cfg(test)]\nmod ").unwrap_or(text.len());
        let lines = text[..tests].lines().count();
        self.read_module(directory, name, lines, path, &parsed.items);
    }

    fn read_module(
        &mut self,
        directory: &Path,
        file: String,
        lines: usize,
        path: ModulePath,
        items: &[Item],
    ) {
        let mut module = Module {
            file: file.clone(),
            lines,
            defined: BTreeSet::new(),
            aliases: BTreeMap::new(),
            globs: vec![],
            paths: BTreeSet::new(),
        };
        for item in items
            .iter()
            .filter(|item| !has_cfg(attributes(item), "test"))
        {
            match item {
                Item::Mod(inner) => {
                    let name = inner.ident.to_string();
                    let mut path = path.clone();
                    path.push(name.clone());
                    let beside = source::root().join(&file);
                    let elsewhere =
                        path_of(&inner.attrs).map(|to| beside.parent().unwrap().join(to));
                    match (&inner.content, elsewhere) {
                        (Some((_, items)), elsewhere) => {
                            let directory = elsewhere.unwrap_or_else(|| directory.join(name));
                            self.read_module(&directory, file.clone(), lines, path, items);
                        }
                        (None, Some(file)) => {
                            let file = file.canonicalize().unwrap();
                            self.read_file(file.parent().unwrap(), &file, path);
                        }
                        (None, None) => {
                            let (directory, file) = find_module(directory, &name);
                            self.read_file(&directory, &file.canonicalize().unwrap(), path);
                        }
                    }
                }
                Item::Use(import) => module.import(import),
                other => {
                    module.defined.extend(name_of(other));
                    module.visit_item(other);
                }
            }
        }
        self.modules.insert(path, module);
    }
}

/// The value of `#[path = "..."]`.
fn path_of(attributes: &[Attribute]) -> Option<String> {
    let values = attributes
        .iter()
        .filter_map(|it| it.meta.require_name_value().ok());
    values
        .filter(|it| it.path.is_ident("path"))
        .find_map(|it| match &it.value {
            syn::Expr::Lit(literal) => match &literal.lit {
                syn::Lit::Str(text) => Some(text.value()),
                _ => None,
            },
            _ => None,
        })
}

/// The directory of a module's children, and its file.
fn find_module(directory: &Path, name: &str) -> (PathBuf, PathBuf) {
    let inside = directory.join(name);
    let folder = inside.join("mod.rs");
    match folder.exists() {
        true => (inside, folder),
        false => (inside.clone(), inside.with_extension("rs")),
    }
}

// === impl Module ===

impl Module {
    fn import(&mut self, import: &ItemUse) {
        let mut all = vec![];
        flatten(&import.tree, vec![], &mut all);
        let reexported = !matches!(import.vis, syn::Visibility::Inherited);
        for (path, name) in all {
            if path.len() == 1 && path.first() == name.as_ref() {
                continue;
            }
            if !reexported {
                self.paths.insert(path.clone());
            }
            match name {
                Some(name) => drop(self.aliases.insert(name, path)),
                None => self.globs.push(path),
            }
        }
    }
}

impl Visit<'_> for Module {
    fn visit_path(&mut self, path: &syn::Path) {
        let segments: Vec<String> = path.segments.iter().map(|s| s.ident.to_string()).collect();
        if segments.len() > 1 {
            self.paths.insert(segments);
        }
        visit::visit_path(self, path);
    }

    fn visit_item(&mut self, item: &Item) {
        match item {
            Item::Use(import) => self.import(import),
            _ if has_cfg(attributes(item), "test") => {}
            _ => visit::visit_item(self, item),
        }
    }

    // Links in documentation and `pub(in path)` are no imports.
    fn visit_attribute(&mut self, _: &Attribute) {}
    fn visit_visibility(&mut self, _: &syn::Visibility) {}
}

/// Every path of a `use`, with the name it gets here; no name: a glob.
fn flatten(tree: &UseTree, before: Vec<String>, all: &mut Vec<(Vec<String>, Option<String>)>) {
    let with = |name: &syn::Ident| {
        let mut path = before.clone();
        if name != "self" || path.is_empty() {
            path.push(name.to_string());
        }
        path
    };
    match tree {
        UseTree::Path(inner) => flatten(&inner.tree, with(&inner.ident), all),
        UseTree::Name(leaf) => {
            let path = with(&leaf.ident);
            let name = path.last().cloned();
            all.push((path, name));
        }
        UseTree::Rename(leaf) => all.push((with(&leaf.ident), Some(leaf.rename.to_string()))),
        UseTree::Glob(_) => all.push((before, None)),
        UseTree::Group(group) => {
            for tree in &group.items {
                flatten(tree, before.clone(), all);
            }
        }
    }
}

fn attributes(item: &Item) -> &[Attribute] {
    match item {
        Item::Const(it) => &it.attrs,
        Item::Enum(it) => &it.attrs,
        Item::Fn(it) => &it.attrs,
        Item::Impl(it) => &it.attrs,
        Item::Macro(it) => &it.attrs,
        Item::Mod(it) => &it.attrs,
        Item::Static(it) => &it.attrs,
        Item::Struct(it) => &it.attrs,
        Item::Trait(it) => &it.attrs,
        Item::Type(it) => &it.attrs,
        Item::Use(it) => &it.attrs,
        _ => &[],
    }
}
