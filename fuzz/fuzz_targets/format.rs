//! Every decoded instance can be dialled, and decodes to the same instance after encoding it.
#![no_main]

use tonic_etcd::fuzzing;

libfuzzer_sys::fuzz_target!(|input: (&str, &[u8])| {
    let (key, value) = input;
    for (read, again) in fuzzing::read(key, value) {
        let address = read.get_address().expect("an address");
        assert_eq!(fuzzing::address(address).as_deref(), Ok(address));
        let again = again.expect("what was written is read");
        assert_eq!(
            (again.get_address(), again.get_id(), again.get_version()),
            (Some(address), read.get_id(), read.get_version())
        );
    }
});
