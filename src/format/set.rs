//! [`Formats`]: the formats in which a registrar writes every instance.

use super::{Format, KeyContext, MAX_KEY, MAX_VALUE, could_be_same};
use crate::address::Address;
use crate::error::{BuildError, RegisterError};
use crate::instance::Instance;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

/// The longest lease id, in decimal. A key may contain it.
const LEASE_DIGITS: usize = 19;

/// At least one format, with settings that work.
#[derive(Debug)]
pub(crate) struct Formats {
    list: Vec<Arc<dyn Format>>,
}

// === impl Formats ===

impl Formats {
    pub(crate) fn new(list: Vec<Arc<dyn Format>>) -> Result<Self, BuildError> {
        for format in &list {
            contained(format, BuildError::format, || format.check_settings())?;
        }
        let formats = Self { list };
        formats.warn_of_overlap();
        Ok(formats)
    }

    pub(crate) fn names(&self) -> Vec<String> {
        let names = self.list.iter().map(|format| format.name().to_owned());
        names.collect()
    }

    /// Checks everything that needs no bound address. Returns the explicit address.
    pub(crate) fn check(&self, instance: &Instance) -> Result<Option<Address>, RegisterError> {
        let address = instance.check()?;
        // An address that is not known yet is replaced by the longest possible one.
        let longest = Address::longest();
        for format in &self.list {
            let (key, value) = contained(format, RegisterError::format, || {
                format.check(instance)?;
                format.key(&KeyContext::outline(instance, address.as_ref(), 0));
                let address = address.as_ref().unwrap_or(&longest);
                let key = format.key(&KeyContext::outline(instance, Some(address), 0));
                let value = format.encode(instance, address);
                Ok((key.len() + LEASE_DIGITS, value.len()))
            })?;
            let name = &instance.name;
            if key > MAX_KEY {
                let (name, len, max) = (name.clone(), key, MAX_KEY);
                return Err(RegisterError::KeyTooLong { name, len, max });
            }
            if value > MAX_VALUE {
                let (name, len, max) = (name.clone(), value, MAX_VALUE);
                return Err(RegisterError::ValueTooLarge { name, len, max });
            }
        }
        self.check_keys(instance, address.as_ref())?;
        Ok(address)
    }

    /// Its keys, as far as they can be known without a lease, and perhaps without an address.
    /// `number` is that of the registration.
    pub(crate) fn outlines(
        &self,
        instance: &Instance,
        address: Option<&Address>,
        number: u64,
    ) -> Vec<String> {
        let context = KeyContext::outline(instance, address, number);
        self.list
            .iter()
            .map(|format| format.key(&context))
            .collect()
    }

    /// The keys and values to write. [`under_lease`](super::under_lease) puts the lease into the keys.
    pub(crate) fn records(
        &self,
        instance: &Instance,
        address: &Address,
    ) -> Vec<(Arc<str>, Arc<str>)> {
        let context = KeyContext::before_lease(instance, address);
        let records = self.list.iter().map(|format| {
            let value = format.encode(instance, address);
            (format.key(&context).into(), value.into())
        });
        records.collect()
    }

    /// Refuses two formats that would write one key.
    fn check_keys(
        &self,
        instance: &Instance,
        address: Option<&Address>,
    ) -> Result<(), RegisterError> {
        let keys = self.outlines(instance, address, 0);
        for (at, key) in keys.iter().enumerate() {
            let same = keys[..at]
                .iter()
                .position(|other| could_be_same(key, other));
            if let Some(same) = same {
                let reason = format!(
                    "would write the same key {key:?} as {:?}: give one of them another prefix",
                    self.list[same].name()
                );
                return Err(RegisterError::format(self.list[at].name(), reason));
            }
        }
        Ok(())
    }

    /// Logs a warning if readers of one format would find the keys of another.
    ///
    /// It is no error, because most readers skip values that they cannot read. But go-zero dials any value.
    fn warn_of_overlap(&self) {
        let sample = Instance::new("service");
        for (at, key) in self.outlines(&sample, None, 0).iter().enumerate() {
            for (other, format) in self.list.iter().enumerate() {
                let prefix = format.key_prefix(sample.name());
                if other != at && key.starts_with(&prefix) {
                    let (reader, written) = (format.name(), self.list[at].name());
                    crate::runtime::logging::warn!(
                        reader,
                        written,
                        prefix,
                        "readers of one format find another's keys: give one of them another prefix"
                    );
                }
            }
        }
    }
}

/// Runs `call`, and turns a panic into an error: a format may be the application's code.
fn contained<T, E>(
    format: &Arc<dyn Format>,
    refuse: fn(String, String) -> E,
    call: impl FnOnce() -> Result<T, E>,
) -> Result<T, E> {
    catch_unwind(AssertUnwindSafe(call)).unwrap_or_else(|panic| {
        let name = catch_unwind(AssertUnwindSafe(|| format.name().to_owned()));
        let said = panic.downcast_ref::<String>().map(String::as_str);
        let said = said.or(panic.downcast_ref::<&str>().copied());
        let reason = format!("it panicked: {}", said.unwrap_or("(no text)"));
        Err(refuse(name.unwrap_or_default(), reason))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::{EtcdNaming, GoZero, Kratos, Plain};

    fn formats(list: Vec<Arc<dyn Format>>) -> Formats {
        Formats::new(list).unwrap()
    }

    #[test]
    fn a_value_that_readers_skip_is_refused_in_every_format() {
        let plain = formats(vec![Arc::new(Plain::new())]);
        let fits = Instance::new("greeter").with_value("x".repeat(MAX_VALUE));
        plain.check(&fits).unwrap();
        let large = fits.with_value("x".repeat(MAX_VALUE + 1));
        let metadata = Instance::new("greeter").with_metadata("k", "x".repeat(MAX_VALUE));
        let both = formats(vec![Arc::new(Plain::new()), Arc::new(Kratos::new())]);
        let of_kratos = metadata.clone().with_value("small");
        for (formats, instance) in [(&plain, &large), (&plain, &metadata), (&both, &of_kratos)] {
            let error = formats.check(instance).unwrap_err();
            assert!(
                matches!(error, RegisterError::ValueTooLarge { .. }),
                "{error:?}"
            );
        }
        plain.check(&of_kratos).unwrap();
    }

    #[test]
    fn a_key_that_readers_skip_is_refused_with_its_length() {
        let key_of = |segments: usize| {
            let prefix = "/x".repeat(segments);
            formats(vec![Arc::new(Plain::new().prefix(prefix))])
        };
        // Without an address the longest possible one counts: 253 bytes.
        let instance = Instance::new("greeter");
        key_of(1900).check(&instance).unwrap();
        let error = key_of(2015).check(&instance).unwrap_err();
        let RegisterError::KeyTooLong { len, max, .. } = error else {
            panic!("{error:?}");
        };
        assert!((4096..4400).contains(&len) && max == 4096, "{len}");
        key_of(2015)
            .check(&instance.with_address("10.0.0.1:9000"))
            .unwrap();
    }

    #[test]
    fn two_formats_with_one_key_are_refused() {
        let instance = Instance::new("greeter").with_id("10.0.0.1:9000");
        let colliding = instance.clone().with_address("10.0.0.1:9000");
        let both = formats(vec![Arc::new(GoZero::new()), Arc::new(EtcdNaming::new())]);
        both.check(&instance).unwrap();
        let error = both.check(&colliding).unwrap_err().to_string();
        assert!(
            error.contains("the same key \"greeter/10.0.0.1:9000\" as \"go-zero\""),
            "{error}"
        );
        let twice = formats(vec![Arc::new(Plain::new()), Arc::new(Plain::new())]);
        assert!(matches!(
            twice.check(&instance),
            Err(RegisterError::Format { .. })
        ));
        let apart = formats(vec![
            Arc::new(Plain::new()),
            Arc::new(Plain::new().prefix("/other")),
        ]);
        apart.check(&instance).unwrap();
    }

    #[test]
    fn settings_that_cannot_work_are_refused() {
        for bad in [
            Arc::new(Plain::new().key_template("{name}")) as Arc<dyn Format>,
            Arc::new(Kratos::new().namespace("")),
            Arc::new(EtcdNaming::new().prefix("a//b")),
        ] {
            assert!(Formats::new(vec![bad]).is_err());
        }
    }
}
