//! Every decoded instance decodes to the same instance after encoding it.
#![no_main]

use tonic_etcd::InstanceJson;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    if let Ok(read) = serde_json::from_slice::<InstanceJson>(data) {
        let written = serde_json::to_vec(&read).expect("what was read can be written");
        let again: InstanceJson = serde_json::from_slice(&written).expect("and read again");
        assert_eq!(again, read);
    }
});
