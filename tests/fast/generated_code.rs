//! The checked-in code for `proto/` is what the generator makes of it today.
//!
//! Users of the examples need no generator, and a change of a `.proto` file cannot be forgotten.
//! `make generate` writes it anew.

use std::path::Path;

const GENERATED: [&str; 2] = ["greeter.v1.rs", "greeter.v1.bin"];

#[test]
fn the_checked_in_code_is_what_the_proto_files_say() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let checked_in = root.join("examples/greeter");
    let out = tempfile::tempdir().unwrap();
    tonic_prost_build::configure()
        .out_dir(out.path())
        .file_descriptor_set_path(out.path().join("greeter.v1.bin"))
        .compile_protos(&[root.join("proto/greeter.proto")], &[root.join("proto")])
        .expect("protoc is needed for this test: `make test` fetches it");
    for file in GENERATED {
        let fresh = std::fs::read(out.path().join(file)).unwrap();
        if std::env::var_os("UPDATE_GENERATED").is_some() {
            std::fs::write(checked_in.join(file), &fresh).unwrap();
        }
        let kept = std::fs::read(checked_in.join(file)).unwrap_or_default();
        assert!(
            fresh == kept,
            "examples/greeter/{file} is stale: run `make generate`"
        );
    }
}
