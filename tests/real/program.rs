//! The program `registryctl` of this build.

use std::path::PathBuf;

/// `cargo test --workspace` builds it before any test runs.
pub fn registryctl() -> PathBuf {
    let exe = std::env::current_exe().unwrap();
    let mut places = exe.ancestors().map(|dir| dir.join("registryctl"));
    let found = places.find(|path| path.is_file());
    found.expect("no registryctl beside this test: run `make test`")
}
