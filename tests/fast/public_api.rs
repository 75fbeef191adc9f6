//! The public interface, one line an item, as `tests/fast/public_api/listing.txt` has it.
//!
//! A change of the interface shows in review as a change of that file. `make generate` writes it again. The list is read
//! from rustdoc's JSON, by the crate `public-api`. Each version of it reads the JSON of some versions of Rust: with
//! another one nothing is compared, and the test says so. `.ci/run` sets `PUBLIC_API=required` with the Rust that fits;
//! a test in `commands.rs` compares its version with the workflow's.

use crate::source::{read, root};
use std::io::Write as _;
use std::process::Command;

/// The version of rustdoc's JSON that `public-api` reads. It does not look itself.
const FORMAT: u64 = 57;
const LISTING: &str = "tests/fast/public_api/listing.txt";

/// What rustdoc says about the crate with all features; `Err` if `public-api` cannot read it.
fn listing() -> Result<String, String> {
    // Only rustdoc may use unstable options. Set for cargo too, the variable would compile all dependencies again.
    let rustdoc = root().join("scripts/rustdoc-json");
    let exe = std::env::current_exe().unwrap();
    let target = exe.ancestors().nth(3).unwrap();
    let made = Command::new(env!("CARGO"))
        .args([
            "rustdoc",
            "--quiet",
            "--lib",
            "--all-features",
            "--target-dir",
        ])
        .arg(target)
        .args([
            "--",
            "-Zunstable-options",
            "--output-format=json",
            "--cap-lints=allow",
        ])
        .env("RUSTDOC", rustdoc)
        .current_dir(root())
        .output()
        .unwrap();
    assert!(
        made.status.success(),
        "{}",
        String::from_utf8_lossy(&made.stderr)
    );
    let json = target.join("doc/tonic_etcd.json");
    let written: serde_json::Value =
        serde_json::from_slice(&std::fs::read(&json).unwrap()).unwrap();
    let format = &written["format_version"];
    if *format != FORMAT {
        return Err(format!(
            "rustdoc writes format {format}, and public-api reads {FORMAT}"
        ));
    }
    let api = public_api::Builder::from_rustdoc_json(json)
        .omit_auto_trait_impls(true)
        .omit_blanket_impls(true)
        .build()
        .map_err(|error| error.to_string())?;
    Ok(api.items().map(|item| format!("{item}\n")).collect())
}

#[test]
fn the_public_interface_is_the_one_that_is_checked_in() {
    let listing = match listing() {
        Ok(listing) => listing,
        Err(error) => {
            let required = std::env::var_os("PUBLIC_API").is_some();
            assert!(
                !required,
                "another Rust, or another version of public-api: {error}"
            );
            // A test that passes does not show what it prints.
            let why = format!(
                "\nNOT COMPARED: the public interface, because of this version of Rust: {error}\n"
            );
            std::io::stderr().write_all(why.as_bytes()).unwrap();
            return;
        }
    };
    if std::env::var_os("UPDATE_GENERATED").is_some() {
        std::fs::write(root().join(LISTING), &listing).unwrap();
    }
    let kept = read(LISTING);
    let lines = |of: &str, mark: char, not_in: &str| -> String {
        let known: Vec<&str> = not_in.lines().collect();
        let changed = of.lines().filter(|line| !known.contains(line));
        changed.map(|line| format!("{mark} {line}\n")).collect()
    };
    let difference = lines(&kept, '-', &listing) + &lines(&listing, '+', &kept);
    let says = "the public interface changed; if that is meant: make generate";
    assert!(listing == kept, "{says}\n{difference}");
}
