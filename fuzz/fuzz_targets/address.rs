//! Every parsed address can be dialled, and parses again to the same address.
#![no_main]

libfuzzer_sys::fuzz_target!(|text: &str| {
    if let Ok(address) = tonic_etcd::fuzzing::address(text) {
        assert_eq!(tonic_etcd::fuzzing::address(&address).as_deref(), Ok(&*address));
        assert!(!address.starts_with("0.0.0.0:") && !address.starts_with("[::]:"));
        assert!(!address.ends_with(":0") && !address.contains(['/', '\0', '%', ' ']));
    }
    // Parsing an endpoint never panics, and an error never shows the text before an @.
    let secret = format!("http://me:canary{text}@host:1");
    let built = tonic_etcd::Registrar::builder(tonic_etcd::Etcd::new([&secret])).build();
    assert!(!format!("{built:?}").contains("canary"));
    let _ = tonic_etcd::Registrar::builder(tonic_etcd::Etcd::new([text])).build();
});
