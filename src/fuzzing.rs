//! What must hold for any input: a function for each target of `make fuzz`.
//!
//! The unit tests compile and call them too. So a rename cannot leave the fuzzer behind.

#![allow(clippy::expect_used, reason = "the fuzzer reports panics")]

use crate::address::Address;
use crate::etcd::Etcd;
use crate::format::{
    CoreDns, EtcdNaming, Format, GoMicro, GoZero, KeyContext, Kitex, Kratos, Plain,
};
use crate::instance::{Instance, InstanceJson};
use crate::registrar::Registrar;

/// Every parsed address can be dialled, and parses again to the same address. An error never shows a password.
pub fn address(text: &str) {
    if let Ok(address) = text.parse::<Address>() {
        let address = address.to_string();
        dialable(&address);
        assert!(!address.starts_with("0.0.0.0:") && !address.starts_with("[::]:"));
        assert!(!address.ends_with(":0") && !address.contains(['/', '\0', '%', ' ']));
    }
    let secret = format!("http://me:canary{text}@host:1");
    let built = Registrar::builder(Etcd::new([&secret])).build();
    assert!(!format!("{built:?}").contains("canary"));
    let _ = Registrar::builder(Etcd::new([text])).build();
}

/// Every accepted template makes keys of a service that are not below the prefix of another. The lines are a template, a
/// prefix and two services.
pub fn key(text: &str) {
    let lines: Vec<&str> = text.split('\n').collect();
    let [template, prefix, one, other] = lines[..] else {
        return;
    };
    let key_of = |name: &str| {
        let instance = Instance::new(name).with_id("id");
        instance.check().ok()?;
        let address = dialable("10.0.0.1:9000");
        let format = Plain::new().prefix(prefix).key_template(template);
        format.check_settings().ok()?;
        Some(Format::key(
            &format,
            &KeyContext::new(&instance, &address, 1),
        ))
    };
    let (Some(a), Some(b)) = (key_of(one), key_of(other)) else {
        return;
    };
    assert!(!a.chars().any(char::is_control) && !a.contains("//"));
    if one != other {
        assert!(!a.starts_with(&format!("{b}/")) && a != b, "{a} {b}");
    }
}

/// Every decoded instance can be dialled, and decodes to the same instance after encoding it. The first line is the rest of
/// the key.
pub fn format(data: &[u8]) {
    let mut parts = data.splitn(2, |byte| *byte == b'\n');
    let (Some(key), Some(value)) = (parts.next(), parts.next()) else {
        return;
    };
    let key = String::from_utf8_lossy(key);
    let formats: [Box<dyn Format>; 9] = [
        Box::new(Plain::new()),
        Box::new(EtcdNaming::new()),
        Box::new(Kratos::new()),
        Box::new(Kratos::new().secure(true)),
        Box::new(Kratos::new().mixed()),
        Box::new(Kitex::new()),
        Box::new(GoZero::new()),
        Box::new(GoMicro::new()),
        Box::new(CoreDns::new()),
    ];
    for format in formats {
        let key = format.key_prefix("greeter") + &key;
        let Ok(read) = format.decode("greeter", &key, value) else {
            continue;
        };
        let address = dialable(read.address().expect("an address"));
        let written = format.encode(&read, &address);
        let again = format.decode("greeter", &key, written.as_bytes());
        let seen = |it: &Instance| {
            let address = it.address().map(ToOwned::to_owned);
            (
                address,
                it.id().to_owned(),
                it.version().map(ToOwned::to_owned),
            )
        };
        assert_eq!(again.as_ref().map(seen), Ok(seen(&read)));
    }
}

/// Every decoded value decodes to the same value after encoding it.
pub fn json(data: &[u8]) {
    let Ok(read) = serde_json::from_slice::<InstanceJson>(data) else {
        return;
    };
    let written = serde_json::to_vec(&read).expect("what was read can be written");
    let again: InstanceJson = serde_json::from_slice(&written).expect("and read again");
    assert_eq!(again, read);
}

/// The frames of a peer are the same however its bytes arrive, and only answers to pings are taken out. The first byte is the
/// size of the pieces.
#[cfg(feature = "discovery")]
pub fn frames(data: &[u8]) {
    let Some((size, bytes)) = data.split_first() else {
        return;
    };
    crate::channel::check_frames(bytes, usize::from(*size).max(1));
}

/// The address, which is written as it was read.
fn dialable(text: &str) -> Address {
    let address: Address = text.parse().expect("an address that can be dialled");
    assert_eq!(address.to_string(), text);
    address
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(feature = "discovery")]
    use proptest::collection::vec;
    use proptest::prelude::*;

    type Check = fn(&[u8]);

    const CHECKS: &[(&str, Check)] = &[
        ("address", |data| address(&String::from_utf8_lossy(data))),
        ("key", |data| key(&String::from_utf8_lossy(data))),
        ("format", super::format),
        ("json", json),
        #[cfg(feature = "discovery")]
        ("frames", frames),
    ];

    #[test]
    fn the_inputs_that_the_fuzzer_starts_from_pass() {
        for (name, check) in CHECKS {
            let seeds = std::fs::read_dir(format!("fuzz/seeds/{name}")).unwrap();
            seeds.for_each(|seed| check(&std::fs::read(seed.unwrap().path()).unwrap()));
        }
    }

    #[test]
    fn the_fuzzer_runs_a_target_for_each_check() {
        for (check, _) in CHECKS {
            let target = std::fs::read_to_string(format!("fuzz/fuzz_targets/{check}.rs"));
            let call = format!("tonic_etcd::fuzzing::{check}(");
            assert!(target.is_ok_and(|it| it.contains(&call)), "{check}");
        }
    }

    /// Text of the characters that the parsers look for.
    fn text() -> impl Strategy<Value = String> {
        r#"[a-b0-1/:.%@{}\[\] \\"\PC]{0,20}"#
    }

    proptest! {
        #[test]
        fn an_address_that_is_read_can_be_dialled(any in text(), host in "[a-z0-9.-]{1,9}", port: u16) {
            address(&any);
            address(&format!("{host}:{port}"));
        }

        #[test]
        fn no_template_puts_a_service_below_another(template in text(), names in "[a-c/.-]{1,5}\n[a-c/.-]{1,5}\n[a-c/.-]{1,5}") {
            key(&format!("{template}\n{names}"));
            key(&format!("{{prefix}}/{{name}}/{{id}}\n{names}"));
        }

        #[test]
        fn no_bytes_make_a_reader_panic(name in "[a-z/]{0,9}\n", value in any::<Vec<u8>>()) {
            json(&value);
            super::format(&[name.as_bytes(), &value].concat());
        }

        #[cfg(feature = "discovery")]
        #[test]
        fn frames_are_the_same_however_their_bytes_arrive(frames in vec((0_u8..11, 0_u8..6, vec(0_u8..9, 0..20)), 0..9), size: u8) {
            let frame = |(kind, flags, payload): &(u8, u8, Vec<u8>)| {
                let len = u8::try_from(payload.len()).unwrap();
                [&[0, 0, len, *kind, *flags, 0, 0, 0, 0], &payload[..]].concat()
            };
            let bytes: Vec<_> = frames.iter().flat_map(frame).collect();
            super::frames(&[&[size], &*bytes].concat());
        }
    }
}
