#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| tonic_etcd::fuzzing::frames(data));
