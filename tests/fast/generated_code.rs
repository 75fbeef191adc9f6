//! The checked-in code for `proto/` equals the output of the generator.
//!
//! So users need no generator, and the code cannot get out of date. `make generate`
//! writes it again.

use crate::source::root;

/// A `.proto` file, where its code is, and what that is called.
const GENERATED: [(&str, &str, &str); 2] = [
    ("greeter.proto", "examples/greeter", "greeter.v1"),
    (
        "tonic_etcd/registration/v1/registration.proto",
        "src/introspection/generated",
        "tonic_etcd.registration.v1",
    ),
];

#[test]
fn the_checked_in_code_is_what_the_proto_files_say() {
    let root = root();
    for (proto, directory, package) in GENERATED {
        let out = tempfile::tempdir().unwrap();
        let (code, descriptor) = (format!("{package}.rs"), format!("{package}.bin"));
        tonic_prost_build::configure()
            .out_dir(out.path())
            .file_descriptor_set_path(out.path().join(&descriptor))
            .compile_protos(&[root.join("proto").join(proto)], &[root.join("proto")])
            .expect("protoc is needed for this test: `make test` fetches it");
        for file in [code, descriptor] {
            let fresh = std::fs::read(out.path().join(&file)).unwrap();
            let checked_in = root.join(directory).join(&file);
            if std::env::var_os("UPDATE_GENERATED").is_some() {
                std::fs::write(&checked_in, &fresh).unwrap();
            }
            let kept = std::fs::read(&checked_in).unwrap_or_default();
            let is_same = fresh == kept;
            assert!(is_same, "{directory}/{file} is stale: run `make generate`");
        }
    }
}
