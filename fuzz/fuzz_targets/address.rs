#![no_main]

libfuzzer_sys::fuzz_target!(|text: &str| tonic_etcd::fuzzing::address(text));
