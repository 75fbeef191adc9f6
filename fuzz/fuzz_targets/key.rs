#![no_main]

libfuzzer_sys::fuzz_target!(|text: &str| tonic_etcd::fuzzing::key(text));
