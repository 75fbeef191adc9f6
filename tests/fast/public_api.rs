//! The public interface, one line an item, as `tests/fast/public_api/listing.txt` has it.
//!
//! A change of the interface shows in review as a change of that file. `make generate` writes it
//! again. It is read from the sources, so that it needs no nightly toolchain. Derived and
//! blanket implementations are not resolved, but each `derive` and each written `impl` has a line.

mod listing;

use crate::source::root;
use listing::Listing;

#[test]
fn the_public_interface_is_the_one_that_is_checked_in() {
    let file = root().join("tests/fast/public_api/listing.txt");
    let listing = Listing::read(&root().join("src")).to_string();
    assert!(listing.contains("tonic_etcd::Registrar | "), "{listing}");
    if std::env::var_os("UPDATE_GENERATED").is_some() {
        std::fs::write(&file, &listing).unwrap();
    }
    let kept = std::fs::read_to_string(&file).unwrap_or_default();
    let gone = kept.lines().filter(|line| !listing.contains(line));
    let new = listing.lines().filter(|line| !kept.contains(line));
    let difference: Vec<String> = gone
        .map(|line| format!("- {line}"))
        .chain(new.map(|line| format!("+ {line}")))
        .collect();
    assert!(
        listing == kept,
        "the public interface changed; if that is meant: make generate\n{}",
        difference.join("\n")
    );
}
