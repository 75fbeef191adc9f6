//! Every accepted template makes keys of a service that are not below the prefix of another.
#![no_main]

use tonic_etcd::fuzzing::key;

libfuzzer_sys::fuzz_target!(|input: (&str, &str, &str, &str)| {
    let (template, prefix, one, other) = input;
    let (Some(a), Some(b)) = (key(template, prefix, one), key(template, prefix, other)) else {
        return;
    };
    assert!(!a.chars().any(char::is_control) && !a.contains("//"));
    if one != other {
        assert!(!a.starts_with(&format!("{b}/")) && a != b, "{a} {b}");
    }
});
