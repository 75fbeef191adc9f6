//! Lists the public items: those that `lib.rs` and its public modules declare or re-export.

use crate::source::{self, has_cfg, name_of};
use quote::ToTokens;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::Path;
use syn::{Attribute, Fields, ImplItem, Item, TraitItem, Type, UseTree, Visibility};

/// See the [module](self).
pub(super) struct Listing {
    lines: BTreeSet<String>,
    /// Items of all files by name. Public names are unique in this crate.
    items: BTreeMap<String, Vec<Item>>,
    impls: Vec<syn::ItemImpl>,
    modules: BTreeMap<String, Vec<Item>>,
}

// === impl Listing ===

impl Listing {
    pub(super) fn read(src: &Path) -> Self {
        let mut listing = Self {
            lines: BTreeSet::new(),
            items: BTreeMap::new(),
            impls: vec![],
            modules: BTreeMap::new(),
        };
        // It is generated from the `.proto` file, which another test compares.
        let is_generated = |file: &Path| {
            file.components()
                .any(|part| part.as_os_str() == "generated")
        };
        let files = source::files(src, &["rs"]).into_iter();
        for file in files.filter(|file| !is_generated(file)) {
            let parsed = source::parse(&file);
            let module = module_of(src, &file);
            listing.modules.insert(module, parsed.items.clone());
            listing.take(parsed.items);
        }
        listing.list_module("", "tonic_etcd");
        listing
    }

    fn take(&mut self, items: Vec<Item>) {
        for item in items {
            match item {
                Item::Impl(it) if !has_cfg(&it.attrs, "test") => self.impls.push(it),
                Item::Mod(_) => {}
                item => {
                    if let Some(name) = name_of(&item) {
                        self.items.entry(name).or_default().push(item);
                    }
                }
            }
        }
    }

    /// Lists a public module: `module` as the files name it, `path` as users do.
    fn list_module(&mut self, module: &str, path: &str) {
        let items = self.modules.get(module).cloned().unwrap_or_default();
        for item in items {
            match &item {
                Item::Use(it) if is_public(&it.vis) => {
                    let mut names = vec![];
                    leaves(&it.tree, &mut names);
                    for (name, shown) in names {
                        self.list_named(&name, &format!("{path}::{shown}"), &it.attrs);
                    }
                }
                Item::Mod(it) if is_public(&it.vis) && !has_cfg(&it.attrs, "fuzzing") => {
                    let name = it.ident.to_string();
                    let inner = match module {
                        "" => name.clone(),
                        outer => format!("{outer}/{name}"),
                    };
                    let path = format!("{path}::{name}");
                    self.line(&path, format!("{}mod", features(&it.attrs)));
                    self.list_module(&inner, &path);
                }
                item if is_public_item(item) => {
                    if let Some(name) = name_of(item) {
                        self.list_named(&name, &format!("{path}::{name}"), &[]);
                    }
                }
                _ => {}
            }
        }
    }

    fn list_named(&mut self, name: &str, path: &str, attributes: &[Attribute]) {
        let condition = features(attributes);
        let items = self.items.get(name).cloned().unwrap_or_default();
        if items.is_empty() {
            // pin_project! takes the declaration into its tokens.
            self.line(path, format!("{condition}declared by a macro"));
        }
        for item in items.iter().filter(|item| is_public_item(item)) {
            self.list_item(item, path, &condition);
        }
        for found in self.impls.clone() {
            if matches!(&*found.self_ty, Type::Path(of) if of.path.is_ident(name) || last(&of.path) == name)
            {
                self.list_impl(&found, path, &condition);
            }
        }
    }

    fn list_item(&mut self, item: &Item, path: &str, condition: &str) {
        match item {
            Item::Struct(it) => {
                let (marks, generics) = (marks(&it.attrs), show(&it.generics));
                let text = format!("{condition}{marks}struct{generics}{}", derives(&it.attrs));
                self.line(path, text);
                self.list_fields(&it.fields, path, condition);
            }
            Item::Enum(it) => {
                let (marks, derives) = (marks(&it.attrs), derives(&it.attrs));
                self.line(path, format!("{condition}{marks}enum{derives}"));
                for variant in &it.variants {
                    self.list_variant(variant, path, condition);
                }
            }
            Item::Trait(it) => {
                let bounds = show(&it.supertraits);
                self.line(path, format!("{condition}trait: {bounds}"));
                for member in &it.items {
                    if let TraitItem::Fn(method) = member {
                        let provided = method.default.as_ref().map_or("", |_| "provided ");
                        let signature = show(&method.sig);
                        self.line(path, format!("{condition}{provided}{signature}"));
                    }
                }
            }
            Item::Fn(it) => self.line(path, format!("{condition}{}", show(&it.sig))),
            Item::Const(it) => self.line(path, format!("{condition}const: {}", show(&it.ty))),
            Item::Type(it) => self.line(path, format!("{condition}type = {}", show(&it.ty))),
            _ => {}
        }
    }

    fn list_variant(&mut self, variant: &syn::Variant, path: &str, condition: &str) {
        let fields = match &variant.fields {
            Fields::Unit => String::new(),
            fields => format!(" {}", without_docs(fields)),
        };
        let (marks, name) = (marks(&variant.attrs), &variant.ident);
        self.line(path, format!("{condition}{marks}variant {name}{fields}"));
    }

    fn list_fields(&mut self, fields: &Fields, path: &str, condition: &str) {
        for field in fields.iter().filter(|field| is_public(&field.vis)) {
            let name = field.ident.as_ref().map(ToString::to_string);
            let name = name.unwrap_or_else(|| "0".to_owned());
            self.line(
                path,
                format!("{condition}field {name}: {}", show(&field.ty)),
            );
        }
    }

    fn list_impl(&mut self, found: &syn::ItemImpl, path: &str, condition: &str) {
        let condition = format!("{condition}{}", features(&found.attrs));
        if let Some((_, of, _)) = &found.trait_ {
            let (parameters, of) = (show(&found.generics), show(of));
            self.line(path, format!("{condition}impl{parameters} {of}"));
            return;
        }
        for member in &found.items {
            match member {
                ImplItem::Fn(it) if is_public(&it.vis) => {
                    let (on, marks) = (features(&it.attrs), marks(&it.attrs));
                    self.line(path, format!("{condition}{on}{marks}{}", show(&it.sig)));
                }
                ImplItem::Const(it) if is_public(&it.vis) => {
                    let (name, ty) = (&it.ident, show(&it.ty));
                    self.line(path, format!("{condition}const {name}: {ty}"));
                }
                _ => {}
            }
        }
    }

    fn line(&mut self, path: &str, text: impl fmt::Display) {
        self.lines.insert(format!("{path} | {text}"));
    }
}

impl fmt::Display for Listing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.lines.iter().try_for_each(|line| writeln!(f, "{line}"))
    }
}

/// Tokens as one line, with the usual spaces.
fn show(tokens: &impl ToTokens) -> String {
    let mut text = tokens.to_token_stream().to_string();
    for (spaced, plain) in [
        (" :: ", "::"),
        (" < ", "<"),
        (" <", "<"),
        ("< ", "<"),
        (" >", ">"),
        (" ,", ","),
        (" (", "("),
        ("( ", "("),
        (" )", ")"),
        ("& ", "&"),
        (" ;", ";"),
        (" : ", ": "),
        ("- >", "->"),
        (">->", "> ->"),
        ("' ", "'"),
        (",)", ")"),
        ("[ ", "["),
        (" ]", "]"),
    ] {
        text = text.replace(spaced, plain);
    }
    text
}

fn without_docs(fields: &Fields) -> String {
    let fields: Vec<String> = fields
        .iter()
        .map(|field| match &field.ident {
            Some(name) => format!("{name}: {}", show(&field.ty)),
            None => show(&field.ty),
        })
        .collect();
    format!("{{ {} }}", fields.join(", "))
}

fn named<'a>(attributes: &'a [Attribute], name: &str) -> impl Iterator<Item = &'a Attribute> {
    let is_named = move |attribute: &&Attribute| attribute.path().is_ident(name);
    attributes.iter().filter(is_named)
}

/// `#[must_use]` and `#[non_exhaustive]` are part of the promise.
fn marks(attributes: &[Attribute]) -> String {
    let is_marked = |name: &&str| named(attributes, name).next().is_some();
    let marks = ["must_use", "non_exhaustive"].into_iter().filter(is_marked);
    marks.map(|mark| format!("#[{mark}] ")).collect()
}

fn derives(attributes: &[Attribute]) -> String {
    let all = named(attributes, "derive");
    let all: Vec<String> = all.map(|derive| show(&derive.meta)).collect();
    match all.is_empty() {
        true => String::new(),
        false => format!(" [{}]", all.join(" ")),
    }
}

/// The condition an item is compiled under, such as a feature.
fn features(attributes: &[Attribute]) -> String {
    let conditions = named(attributes, "cfg");
    conditions
        .map(|cfg| format!("#[{}] ", show(&cfg.meta)))
        .collect()
}

fn leaves(tree: &UseTree, names: &mut Vec<(String, String)>) {
    match tree {
        UseTree::Path(inner) => leaves(&inner.tree, names),
        UseTree::Name(leaf) => names.push((leaf.ident.to_string(), leaf.ident.to_string())),
        UseTree::Rename(leaf) => names.push((leaf.ident.to_string(), leaf.rename.to_string())),
        UseTree::Group(group) => group.items.iter().for_each(|tree| leaves(tree, names)),
        UseTree::Glob(_) => panic!("a public glob hides what it re-exports"),
    }
}

fn last(path: &syn::Path) -> String {
    let last = path.segments.last();
    last.map_or_else(String::new, |segment| segment.ident.to_string())
}

fn is_public(visibility: &Visibility) -> bool {
    matches!(visibility, Visibility::Public(_))
}

fn is_public_item(item: &Item) -> bool {
    is_public(match item {
        Item::Const(it) => &it.vis,
        Item::Enum(it) => &it.vis,
        Item::Fn(it) => &it.vis,
        Item::Struct(it) => &it.vis,
        Item::Trait(it) => &it.vis,
        Item::Type(it) => &it.vis,
        _ => return false,
    })
}

/// The module that a file is, as its path below `src` without an ending; "" for `lib.rs`.
fn module_of(src: &Path, file: &Path) -> String {
    let below = file.strip_prefix(src).unwrap().with_extension("");
    let below = below.display().to_string();
    match below.as_str() {
        "lib" => String::new(),
        other => other.strip_suffix("/mod").unwrap_or(other).to_owned(),
    }
}
