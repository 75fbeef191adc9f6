//! The settings of its file, and the ones that are refused.

use crate::settings::{Settings, SettingsError};
use std::path::Path;

const SAMPLE: &str = include_str!("server.toml");

fn load(text: &str, set: &[(&str, &str)]) -> Result<Settings, SettingsError> {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(&file, text).unwrap();
    let variable = |name: &str| {
        let found = set.iter().find(|(set, _)| *set == name);
        found.map(|(_, value)| (*value).to_owned())
    };
    Settings::load(file.path(), variable)
}

#[test]
fn the_sample_is_a_whole_configuration() {
    let settings = load(SAMPLE, &[]).unwrap();
    settings.registrar().unwrap().build().unwrap();
    let instance = settings.instance();
    assert_eq!(instance.name(), "greeter");
    assert_eq!(instance.version(), Some("1.2.0"));
    assert_eq!(instance.weight(), Some(100));
    assert_eq!(instance.metadata()["zone"], "eu-1");
    assert_eq!(instance.address(), None);
    // So is the sample with what is commented out in it, but for the files.
    let full = SAMPLE.replace("# advertise", "advertise");
    let address = load(&full, &[]).unwrap().instance();
    assert_eq!(address.address(), Some("greeter.example.com:9000"));
    for (line, missing) in [("user", "/run/secrets/etcd"), ("tls", "/etc/etcd/")] {
        let full = SAMPLE.replace(&format!("# {line} ="), &format!("{line} ="));
        let full = match line {
            "tls" => full.replace("http://", "https://"),
            _ => full,
        };
        let settings = load(&full, &[]).unwrap();
        let built = settings.registrar().and_then(|it| Ok(it.build()?));
        let error = built.unwrap_err().to_string();
        assert!(error.contains(missing), "{line}: {error}");
    }
}

#[test]
fn the_environment_comes_before_the_file() {
    let set = [("LISTEN", "127.0.0.1:7000"), ("ADVERTISE", "10.0.0.7:7000")];
    let settings = load(SAMPLE, &set).unwrap();
    assert_eq!(settings.listen.port(), 7000);
    assert_eq!(settings.instance().address(), Some("10.0.0.7:7000"));
    let error = load(SAMPLE, &[("LISTEN", "7000")]).unwrap_err();
    assert_eq!(error.to_string(), r#"LISTEN: "7000" is not ip:port"#);
}

#[test]
fn what_is_unknown_or_no_duration_is_refused_by_its_name_and_line() {
    let with = |table: &str, line: &str| {
        SAMPLE.replace(&format!("[{table}]\n"), &format!("[{table}]\n{line}\n"))
    };
    for (text, named) in [
        (format!("port = 1\n{SAMPLE}"), "port"),
        (with("instance", "wieght = 1"), "wieght"),
        (with("etcd", "endpoint = 1"), "endpoint"),
        (with("registrar", "tll = 1"), "tll"),
        (SAMPLE.replace("\"5s\"", "\"5 bananas\""), "bananas"),
        (SAMPLE.replace("take-over", "fight"), "fight"),
        (SAMPLE.replace("name = \"greeter\"", ""), "name"),
    ] {
        let error = load(&text, &[]).unwrap_err();
        assert!(matches!(error, SettingsError::Parse { .. }), "{error:?}");
        let error = error.to_string();
        assert!(error.contains(named) && error.contains("line "), "{error}");
    }
}

#[test]
fn what_the_library_refuses_is_refused_with_its_reason() {
    for (was, is, reason) in [
        ("http://127.0.0.1:2379", "127.0.0.1", "no port"),
        ("\"5s\"", "\"1500ms\"", "whole seconds"),
        ("\"/services\"", "\"/a//b\"", "prefix"),
    ] {
        let settings = load(&SAMPLE.replace(was, is), &[]).unwrap();
        let error = settings.registrar().unwrap().build().unwrap_err();
        assert!(error.to_string().contains(reason), "{error}");
    }
    let missing = Settings::load(Path::new("/nowhere.toml"), |_| None);
    assert!(
        missing
            .unwrap_err()
            .to_string()
            .starts_with("/nowhere.toml: ")
    );
}
