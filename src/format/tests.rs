//! Tests that hold for every format.

use super::*;
use proptest::prelude::*;

/// An instance with only a name and an id.
pub(super) fn greeter() -> Instance {
    Instance::new("greeter").with_id("a1")
}

/// An instance with all properties.
pub(super) fn full() -> Instance {
    let instance = greeter().with_version("v1").with_weight(20);
    instance.with_metadata("zone", "eu-1")
}

/// Key and value of an instance, as they would be in etcd.
pub(super) fn written(format: &dyn Format, instance: &Instance, addr: &str) -> (String, String) {
    let address = addr.parse().unwrap();
    format.check_settings().unwrap();
    format.check(instance).unwrap();
    let key = format.key(&KeyContext::new(instance, &address, 7));
    (key, format.encode(instance, &address))
}

/// Key and value of an instance are these, byte for byte.
#[track_caller]
pub(super) fn writes(format: &dyn Format, instance: &Instance, addr: &str, expected: [&str; 2]) {
    let (key, value) = written(format, instance, addr);
    assert_eq!([&*key, &*value], expected);
}

fn all() -> [Arc<dyn Format>; 7] {
    [
        Arc::new(Plain::new()),
        Arc::new(EtcdNaming::new()),
        Arc::new(Kratos::new()),
        Arc::new(Kitex::new()),
        Arc::new(GoZero::new()),
        Arc::new(GoMicro::new()),
        Arc::new(CoreDns::new()),
    ]
}

/// The properties of an instance that a format writes, as documented on each.
fn carried(format: &str, key: &str, instance: &Instance, addr: &str) -> Instance {
    let carried = |parts: &str| parts.split(' ').any(|name| name == format);
    let id = if carried("plain kratos go-zero go-micro coredns") {
        instance.id()
    } else {
        key.rsplit('/').next().unwrap()
    };
    Instance {
        version: instance
            .version
            .clone()
            .filter(|_| carried("plain kratos go-micro")),
        weight: instance
            .weight
            .filter(|_| carried("plain kratos kitex coredns")),
        metadata: match carried("plain kratos kitex go-micro") {
            true => instance.metadata.clone(),
            false => [].into(),
        },
        ..Instance::new(&instance.name).with_id(id).with_address(addr)
    }
}

fn refused(format: &dyn Format, value: &[u8]) {
    let key = format.key_prefix("greeter") + "a1";
    let read = format.decode("greeter", &key, value);
    let shown = String::from_utf8_lossy(&value[..value.len().min(80)]);
    let why = read.expect_err(&format!("{}: {shown}", format.name()));
    assert!(why.to_string().len() < 1200, "{}: {why}", format.name());
}

#[test]
fn each_format_has_its_name() {
    let names: Vec<_> = all()
        .iter()
        .map(|format| format.name().to_owned())
        .collect();
    let expected = "plain etcd-naming kratos kitex go-zero go-micro coredns";
    assert_eq!(names.join(" "), expected);
}

/// A format that is added without a line in the tables of the documentation fails here.
#[test]
fn the_documentation_lists_each_format_with_its_deregistration_delay() {
    let docs = include_str!("mod.rs");
    let exported = docs.lines().filter_map(|line| {
        let path = line.strip_prefix("pub use ")?.strip_suffix(';')?;
        let name = path.rsplit("::").next()?;
        let is_format = !["Address", "KeyContext", "DecodeError"].contains(&name);
        (is_format && !name.starts_with('{')).then_some(name)
    });
    let exported: Vec<_> = exported.collect();
    assert_eq!(exported.len(), all().len(), "{exported:?}");
    for name in exported {
        let keys = format!("//! | [`{name}`]");
        assert!(docs.lines().any(|line| line.starts_with(&keys)), "{keys}");
        let reader = format!("//! | `{name}` |");
        let row = docs.lines().find(|line| line.starts_with(&reader));
        let row = row.unwrap_or_else(|| panic!("no row {reader:?}"));
        let settle = row.trim_end_matches(" |").rsplit(" | ").next().unwrap();
        assert!(settle.contains(" s"), "{row}");
    }
}

#[test]
fn no_two_formats_share_a_key_by_default() {
    let formats = Formats::new(all().to_vec()).unwrap();
    formats.check(&greeter()).unwrap();
    formats
        .check(&full().with_address("10.1.2.3:9000"))
        .unwrap();
}

#[test]
fn every_key_lies_below_the_prefix_of_its_service_and_no_other() {
    for format in all() {
        let (key, _) = written(&format, &greeter(), "10.1.2.3:9000");
        assert!(key.starts_with(&format.key_prefix("greeter")), "{key}");
        for other in ["greet", "greeter2", "greeter2.v1"] {
            let prefix = format.key_prefix(other);
            assert!(
                prefix.ends_with('/') && !key.starts_with(&prefix),
                "{key}, {prefix}"
            );
        }
    }
}

#[test]
fn what_is_no_instance_is_unreadable_and_never_a_panic() {
    let large = "x".repeat(1_400_000);
    let deep_arrays = "[".repeat(1_400_000);
    let deep = r#"{"a":"#.repeat(100_000);
    let closed = format!("{deep}1{}", "}".repeat(100_000));
    let in_array = |value: &str| format!("[{value}]");
    for format in all() {
        for value in [
            "",
            " ",
            "\0",
            "{}",
            "[]",
            "null",
            "1",
            "\"x\"",
            "{",
            "{\"",
            &large,
            &deep_arrays,
            &deep,
            &closed,
            "10.1.2.3",
            "greeter",
            ":",
            "[::1]",
            "://",
            "a:b:c",
            r#"["greeter","a1","10.1.2.3:9000"]"#,
            r#"["tcp","10.1.2.3:9000",10,null]"#,
        ] {
            refused(&format, value.as_bytes());
        }
        refused(&format, b"\xff\xfe");
        let (_, good) = written(&format, &full(), "10.1.2.3:9000");
        refused(&format, in_array(&good).as_bytes());
        refused(&format, &good.as_bytes()[..good.len() / 2]);
        refused(&format, &[good.as_bytes(), b"\xff"].concat());
        for (from, to) in [
            ("9000", "0"),
            ("9000", "70000"),
            ("9000", "-1"),
            ("10.1.2.3", "0.0.0.0"),
        ] {
            refused(&format, good.replace(from, to).as_bytes());
        }
        if good.starts_with('{') {
            let doubled = good.replacen('{', &format!("{{{},", &good[1..good.len() - 1]), 1);
            refused(&format, doubled.as_bytes());
            for wrong in ["{}", "[]", "1.5", "true"] {
                refused(
                    &format,
                    good.replace("\"10.1.2.3:9000\"", wrong)
                        .replace("\"10.1.2.3\"", wrong)
                        .replace("[\"grpc://10.1.2.3:9000\"]", wrong)
                        .as_bytes(),
                );
            }
        }
    }
}

#[test]
fn unknown_fields_and_spaces_are_ignored() {
    for format in all() {
        let (key, value) = written(&format, &full(), "10.1.2.3:9000");
        let Some(rest) = value.strip_prefix('{') else {
            continue;
        };
        let later = format!(" \n{{\"later\":[{{\"a\":null}}], {rest}\n");
        let expected = format.decode("greeter", &key, value.as_bytes()).unwrap();
        assert_eq!(
            format.decode("greeter", &key, later.as_bytes()),
            Ok(expected)
        );
    }
}

#[test]
fn optional_fields_may_be_missing_or_null() {
    let read = |format: &dyn Format, value: &str| {
        let key = format.key_prefix("greeter") + "a1";
        format.decode("greeter", &key, value.as_bytes()).unwrap()
    };
    let expected = greeter().with_address("10.1.2.3:9000");
    for value in [
        "10.1.2.3:9000",
        "10.1.2.3:9000\n",
        r#"{"address":"10.1.2.3:9000"}"#,
        r#"{"name":"other","id":"a1","address":"10.1.2.3:9000","version":null,"weight":null,"metadata":null}"#,
    ] {
        // The key of this test has no process id; readers do not need one.
        assert_eq!(read(&Plain::new(), value), expected, "{value}");
    }
    let kratos = r#"{"id":null,"name":"greeter","version":null,"metadata":null,"endpoints":["grpc://10.1.2.3:9000"]}"#;
    assert_eq!(read(&Kratos::new(), kratos), expected);
    let kitex = r#"{"address":"10.1.2.3:9000","network":null,"weight":null,"tags":null}"#;
    assert_eq!(read(&Kitex::new(), kitex), expected);
    let micro = r#"{"version":null,"nodes":[{"id":null,"address":"10.1.2.3:9000"}]}"#;
    assert_eq!(read(&GoMicro::new(), micro), expected);
}

#[test]
fn plain_reads_its_own_keys_only() {
    let value = b"10.1.2.3:9000";
    let format = Plain::new().key_template("{prefix}/{host}/{name}/{ip}");
    assert_eq!(Format::key_prefix(&format, "greeter"), "/services/");
    for (key, ours) in [
        ("/services/node-1/greeter/10.1.2.3", true),
        ("/services/node-1/other/greeter", false),
        ("/services/greeter/x/y", false),
        ("/services/greeter", false),
        ("", false),
    ] {
        assert_eq!(format.decode("greeter", key, value).is_ok(), ours, "{key}");
    }
}

fn an_instance() -> impl Strategy<Value = Instance> {
    let text = "[ -~äß\u{202e}\n]{0,8}";
    let map = prop::collection::btree_map("[a-z<\"]{1,4}", text, 0..4);
    let version = prop::option::of("[ -~ä]{1,8}");
    let weight = 1..=u32::MAX;
    (
        "[a-z][a-z0-9-]{0,6}[a-z]",
        "[a-z0-9]{1,8}",
        version,
        weight,
        map,
    )
        .prop_map(|(name, id, version, weight, metadata)| Instance {
            version,
            metadata,
            ..Instance::new(name).with_id(id).with_weight(weight)
        })
}

fn an_addr() -> impl Strategy<Value = String> {
    let v4 =
        (1..=223u8, any::<u8>(), 1..=u16::MAX).prop_map(|(a, b, p)| format!("{a}.0.{b}.1:{p}"));
    let v6 = (1..=u16::MAX, 1..=u16::MAX).prop_map(|(a, p)| format!("[2001:db8::{a:x}]:{p}"));
    let name = ("[a-z]{1,8}\\.[a-z]{1,5}", 1..=u16::MAX).prop_map(|(n, p)| format!("{n}:{p}"));
    prop_oneof![v4, v6, name]
}

proptest! {
    #[test]
    fn what_is_written_is_read_again(instance in an_instance(), addr in an_addr()) {
        for format in all() {
            if format.check(&instance).is_err() {
                continue;
            }
            let (key, value) = written(&format, &instance, &addr);
            let read = format.decode(&instance.name, &key, value.as_bytes());
            prop_assert_eq!(read, Ok(carried(format.name(), &key, &instance, &addr)));
        }
    }

    #[test]
    fn nothing_is_read_without_a_dialable_address(
        instance in an_instance(), addr in an_addr(), at in any::<prop::sample::Index>(), byte in any::<u8>(),
    ) {
        for format in all() {
            if format.check(&instance).is_err() {
                continue;
            }
            let (key, value) = written(&format, &instance, &addr);
            let mut value = value.into_bytes();
            let at = at.index(value.len());
            value[at] = byte;
            if let Ok(read) = format.decode(&instance.name, &key, &value) {
                let address = read.address().unwrap();
                prop_assert_eq!(address.parse::<Address>().unwrap().to_string(), address);
            }
        }
    }
}
