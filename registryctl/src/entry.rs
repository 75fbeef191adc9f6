//! [`Entry`]: one key and its value, decoded as far as possible. Any client may have written them. So decoding
//! never fails, and the output has no control characters for the terminal.

use crate::scope::Scope;
use etcd_client::KeyValue;
use tonic_etcd::InstanceJson;
use tonic_etcd::internal::{self, is_plain};

/// One key and its value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) key: Vec<u8>,
    pub(crate) value: Vec<u8>,
    /// 0 for none.
    pub(crate) lease: i64,
    /// The revision of the write that made it.
    pub(crate) created: i64,
    /// The revision of its last write.
    pub(crate) written: i64,
}

/// The decoded key and value, unescaped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Decoded {
    pub(crate) name: String,
    pub(crate) address: Option<String>,
    /// The value without name and address.
    pub(crate) rest: Vec<u8>,
    /// Why readers skip the key.
    pub(crate) skipped: Option<String>,
}

/// The same, safe to print.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Shown {
    pub(crate) name: String,
    pub(crate) address: String,
    /// After the reason, if readers skip the key.
    pub(crate) rest: String,
}

// === impl Entry ===

impl Entry {
    /// Name and address: from another format if the key has its form, else from the JSON that the
    /// library writes, else from the default key.
    pub(crate) fn decoded(&self, scope: &Scope) -> Decoded {
        let key = self.key();
        let read = scope.read(&key, &self.value);
        let skipped = match &read {
            _ if std::str::from_utf8(&self.key).is_err() => Some("its key is not UTF-8".to_owned()),
            Some(read) => read.instance.as_ref().err().cloned(),
            None => Some("belongs to none of the given formats".to_owned()),
        };
        let decoded = |name: &str, address: Option<&str>, rest| Decoded {
            name: name.to_owned(),
            address: address.map(str::to_owned),
            rest,
            skipped,
        };
        if let Some(read) = read.filter(|read| !read.is_plain) {
            let instance = read.instance.ok();
            let address = instance.as_ref().and_then(|it| it.address());
            return decoded(&read.service, address, self.value.clone());
        }
        if let Ok(instance) = serde_json::from_slice::<InstanceJson>(&self.value) {
            let rest = rest_of_json(&self.value);
            return decoded(&instance.name, Some(&instance.address), rest);
        }
        let below = key
            .strip_prefix(&scope.prefix)
            .unwrap_or(&key)
            .trim_start_matches('/');
        let segments: Vec<_> = below.split('/').collect();
        let (name, address) = match segments[..] {
            [name, ip, pid] if pid.bytes().all(|b| b.is_ascii_digit()) => (name, Some(ip)),
            [name, ..] if !name.is_empty() => (name, None),
            _ => (&*key, None),
        };
        decoded(name, address, self.value.clone())
    }

    pub(crate) fn shown(&self, scope: &Scope) -> Shown {
        let decoded = self.decoded(scope);
        let skipped = decoded.skipped.map(|why| format!("(skipped: {why}) "));
        Shown {
            name: escape(decoded.name),
            address: decoded.address.map_or("-".to_owned(), escape),
            rest: escape(skipped.unwrap_or_default()) + &escape(&decoded.rest),
        }
    }

    /// The key as text, lossy: a key may not be UTF-8.
    pub(crate) fn key(&self) -> String {
        String::from_utf8_lossy(&self.key).into_owned()
    }
}

impl From<&KeyValue> for Entry {
    fn from(kv: &KeyValue) -> Self {
        Self {
            key: kv.key().to_vec(),
            value: kv.value().to_vec(),
            lease: kv.lease(),
            created: kv.create_revision(),
            written: kv.mod_revision(),
        }
    }
}

/// The other fields of the JSON of an instance.
fn rest_of_json(value: &[u8]) -> Vec<u8> {
    match serde_json::from_slice(value) {
        Ok(serde_json::Value::Object(mut fields)) => {
            fields.remove("name");
            fields.remove("address");
            serde_json::Value::Object(fields).to_string().into_bytes()
        }
        _ => value.to_vec(),
    }
}

/// A text that is safe for a terminal, also with invalid UTF-8.
pub(crate) fn escape(text: impl AsRef<[u8]>) -> String {
    let mut shown = String::new();
    for chunk in text.as_ref().utf8_chunks() {
        for char in chunk.valid().chars() {
            match is_plain(char) {
                true => shown.push(char),
                false => shown.extend(char.escape_default()),
            }
        }
        let invalid = chunk.invalid().iter();
        shown.extend(invalid.map(|byte| format!("\\x{byte:02x}")));
    }
    shown
}

/// A text from etcd, a server or a proxy, where it enters: one line, of a bounded length. Escaping it again changes nothing.
pub(crate) fn foreign(text: impl AsRef<[u8]>) -> String {
    internal::foreign(&escape(text))
}

/// At most `width` characters, with a mark if the text was cut.
pub(crate) fn cut(text: &str, width: usize) -> String {
    if text.chars().nth(width).is_none() {
        return text.to_owned();
    }
    text.chars()
        .take(width.saturating_sub(1))
        .chain((width > 0).then_some('…'))
        .collect()
}

/// [`escape`] for JSON, which stays equal: such characters occur only in its strings.
pub(crate) fn escape_json(json: &str) -> String {
    let mut shown = String::with_capacity(json.len());
    for char in json.chars() {
        if is_plain(char) {
            shown.push(char);
            continue;
        }
        for unit in char.encode_utf16(&mut [0; 2]) {
            shown += &format!("\\u{unit:04x}");
        }
    }
    shown
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::formats::FormatName;
    use crate::scope::tests::scope;

    pub(crate) fn entry(key: &str, value: impl AsRef<[u8]>, lease: i64) -> Entry {
        Entry {
            key: key.into(),
            value: value.as_ref().to_vec(),
            lease,
            created: 1,
            written: 1,
        }
    }

    fn shown(key: &str, value: &[u8]) -> Shown {
        let formats = [FormatName::Plain, FormatName::Kratos, FormatName::GoMicro];
        entry(key, value, 1).shown(&scope(&formats, &[]).unwrap())
    }

    #[test]
    fn other_formats_give_what_their_readers_see() {
        let value = br#"{"name":"greeter","endpoints":["grpc://10.1.2.3:9000"]}"#;
        for (key, value, name, address) in [
            (
                "/microservices/greeter/7",
                &value[..],
                "greeter",
                "10.1.2.3:9000",
            ),
            ("/microservices/greeter2/7", value, "greeter2", "-"),
            ("/microservices/greeter/7", b"\x1b", "greeter", "-"),
            ("/micro/registry/greeter/7", value, "greeter", "-"),
        ] {
            let shown = shown(key, value);
            assert_eq!((&*shown.name, &*shown.address), (name, address), "{key}");
        }
    }

    #[test]
    fn json_of_the_library_gives_name_and_address() {
        let value = br#"{"name":"greeter","id":"7","address":"[::1]:9000","later":[1]}"#;
        let shown = shown("/services/elsewhere/x", value);
        assert_eq!((&*shown.name, &*shown.address), ("greeter", "[::1]:9000"));
        assert_eq!(shown.rest, r#"{"id":"7","later":[1]}"#);
    }

    #[test]
    fn of_other_values_the_default_key_tells() {
        for (key, name, address) in [
            ("/services/greeter/10.1.2.3/42", "greeter", "10.1.2.3"),
            ("/services/greeter/[::1]/42", "greeter", "[::1]"),
            ("/services/greeter/10.1.2.3/x", "greeter", "-"),
            ("/services/greeter/7587", "greeter", "-"),
            ("/services/a/b/c/4", "a", "-"),
            ("/services//", "/services//", "-"),
        ] {
            let values: [&[u8]; 5] = [b"hello", b"", br#"{"name":"half"}"#, b"[1,2", b"\xff\xfe"];
            for value in values {
                let shown = shown(key, value);
                assert_eq!((&*shown.name, &*shown.address), (name, address), "{key}");
            }
        }
    }

    #[test]
    fn nothing_that_steers_a_terminal_gets_through() {
        let value = b"\x1b]0;owned\x07 \r\n\t \xff \xe2\x80\xae right \xc2\x9b2J";
        let plain = shown("/services/a\x1b[2J/b/1", value);
        assert_eq!(
            plain.rest,
            r"(skipped: read as plain: the value is not UTF-8) \u{1b}]0;owned\u{7} \r\n\t \xff \u{202e} right \u{9b}2J"
        );
        assert_eq!(plain.name, r"a\u{1b}[2J");
        let json = br#"{"name":"\u001b[2J","id":"1","address":"\u001b[31m:1"}"#;
        let json = shown("/services/a/b/1", json);
        assert_eq!(
            (&*json.name, &*json.address),
            (r"\u{1b}[2J", r"\u{1b}[31m:1")
        );
    }

    #[test]
    fn a_key_that_readers_skip_has_the_reason() {
        let large = format!("10.1.2.3:9000{}", " ".repeat(64 * 1024));
        let scope = scope(&[FormatName::Plain, FormatName::Kratos], &[]).unwrap();
        for (key, value, reason) in [
            ("/services/greeter/a/1", "10.1.2.3:9000", None),
            (
                "/services/greeter/a/1",
                r#"{"name":"greeter","id":"7","address":"10.1.2.3:9000"}"#,
                None,
            ),
            (
                "/services/greeter/a/1",
                "hello",
                Some("is not a JSON object"),
            ),
            ("/services/greeter/a/1", "0.0.0.0:9000", Some("0.0.0.0")),
            ("/services/greeter/a/1", &large, Some("65536 at most")),
            ("/services/greeter", "10.1.2.3:9000", Some("none of the")),
            ("/microservices/greeter/a", "{}", Some("read as kratos")),
        ] {
            let entry = entry(key, value, 1);
            let skipped = entry.decoded(&scope).skipped;
            let is_as_expected = match (&skipped, reason) {
                (Some(why), Some(reason)) => why.contains(reason),
                (skipped, reason) => skipped.is_none() && reason.is_none(),
            };
            assert!(is_as_expected, "{key} {reason:?}: {skipped:?}");
            let shown = entry.shown(&scope).rest;
            assert_eq!(shown.starts_with("(skipped: "), reason.is_some(), "{shown}");
        }
        let mut entry = entry("/services/greeter/a/1", "10.1.2.3:9000", 1);
        entry.key.push(0xff);
        let skipped = entry.decoded(&scope).skipped;
        assert_eq!(skipped.as_deref(), Some("its key is not UTF-8"));
    }

    #[test]
    fn escaped_json_is_the_same_json() {
        let text = "\u{9b}2J \u{202e} \u{e0001} \x1b grüße \\ \" 👋";
        let json = escape_json(&serde_json::to_string(text).unwrap());
        assert!(json.chars().all(is_plain), "{json}");
        assert_eq!(serde_json::from_str::<String>(&json).unwrap(), text);
    }

    #[test]
    fn readable_text_stays_as_it_is() {
        let text = "grüße, 你好 'a' \"b\" \\ 👋";
        assert_eq!(escape(text), text);
    }
}
