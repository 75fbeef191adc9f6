//! [`Plain`]: the key from a template, and the instance as JSON or as a given text.

use super::template::KeyTemplate;
use super::{DecodeError, Format, KeyContext, id_in, id_or_rest, instance_at, json};
use crate::address::Address;
use crate::error::BuildError;
use crate::instance::Instance;
use serde::Deserialize;
use std::collections::BTreeMap;

/// The default: the key follows a template. The value is the instance as
/// [JSON](crate::InstanceJson), or the text of [`Instance::with_value`].
///
/// Reads that JSON, and the plain `host:port` that shell scripts write. The key decides which service a value belongs
/// to, not the name in the JSON.
///
/// For readers that watch, the default of
/// [`deregistration_delay`](crate::RegistrarBuilder::deregistration_delay), 1 s, is enough; a script that polls needs its
/// interval + 1 s.
#[derive(Debug, Clone)]
pub struct Plain {
    prefix: Option<String>,
    key: Option<String>,
    /// `None` while the settings are not usable; [`Format::check_settings`] says why.
    template: Option<KeyTemplate>,
}

/// The fields of an [`InstanceJson`](crate::InstanceJson), as read from etcd.
#[derive(Deserialize)]
struct Json {
    address: String,
    id: Option<String>,
    version: Option<String>,
    weight: Option<u32>,
    metadata: Option<BTreeMap<String, String>>,
    #[serde(default)]
    secure: bool,
}

/// A prefix below which no key is ever written or found.
const NOWHERE: &str = "\0/";

// === impl Plain ===

impl Plain {
    /// With the prefix `/services` and the key `{prefix}/{name}/{ip}/{pid}`.
    #[must_use]
    pub fn new() -> Self {
        Self {
            prefix: None,
            key: None,
            template: None,
        }
        .compiled()
    }

    /// The prefix of every key. Default: `/services`. Slashes at the end are dropped.
    #[must_use]
    pub fn prefix(mut self, prefix: impl Into<String>) -> Self {
        self.prefix = Some(prefix.into());
        self.compiled()
    }

    /// The template of the keys. Default: `{prefix}/{name}/{ip}/{pid}`. See
    /// [`RegistrarBuilder::key_template`](crate::RegistrarBuilder::key_template) for its placeholders and rules.
    #[must_use]
    pub fn key_template(mut self, template: impl Into<String>) -> Self {
        self.key = Some(template.into());
        self.compiled()
    }

    /// Whether neither prefix nor key was given.
    pub(crate) fn is_default(&self) -> bool {
        self.prefix.is_none() && self.key.is_none()
    }

    fn compile(&self) -> Result<KeyTemplate, BuildError> {
        let key = self.key.as_deref().unwrap_or(KeyTemplate::DEFAULT);
        let prefix = self.prefix.as_deref();
        KeyTemplate::new(key, prefix.unwrap_or(KeyTemplate::DEFAULT_PREFIX))
    }

    fn compiled(mut self) -> Self {
        self.template = self.compile().ok();
        self
    }
}

impl Default for Plain {
    fn default() -> Self {
        Self::new()
    }
}

impl Format for Plain {
    fn name(&self) -> &str {
        "plain"
    }

    fn check_settings(&self) -> Result<(), BuildError> {
        self.compile().map(drop)
    }

    /// If the template has a field of the server before `{name}`, the prefix also covers keys of other
    /// services; these are skipped. If such a field is the first part, the prefix is empty.
    fn key_prefix(&self, service: &str) -> String {
        match &self.template {
            Some(template) => template.key_prefix(service),
            None => NOWHERE.to_owned(),
        }
    }

    fn key(&self, context: &KeyContext<'_>) -> String {
        match &self.template {
            Some(template) => template.key(context),
            None => NOWHERE.to_owned(),
        }
    }

    fn encode(&self, instance: &Instance, address: &Address) -> String {
        instance.value_at(address)
    }

    fn decode(&self, service: &str, key: &str, value: &[u8]) -> Result<Instance, DecodeError> {
        let template = self.template.as_ref();
        if !template.is_some_and(|template| template.is_of(service, key)) {
            return Err(DecodeError::new("is under a key of another service"));
        }
        let prefix = self.key_prefix(service);
        let id = id_in(key, &prefix);
        if let Ok(text) = json::text(value)
            && let Ok(instance) = instance_at(service, id, text.trim())
        {
            return Ok(instance);
        }
        let json: Json = json::object(value)?;
        let id = id_or_rest(&json.id, key, &prefix);
        let mut instance = instance_at(service, id, &json.address)?;
        instance.version = json.version;
        instance.weight = json.weight;
        instance.metadata = json.metadata.unwrap_or_default();
        instance.secure = json.secure;
        Ok(instance)
    }
}
