//! Writes JSON, and reads the JSON of other writers, exactly as leniently as Go does.
//!
//! Optional fields are `Option`: Go writes `null` for an empty map or slice, and reads `null` as an empty value of any type.

use super::DecodeError;
use serde::de::DeserializeOwned;

/// A value that is one JSON object.
///
/// serde would accept an array for a struct, field by field. No writer uses that, so it is refused.
pub(super) fn object<T: DeserializeOwned>(value: &[u8]) -> Result<T, DecodeError> {
    let text = text(value)?;
    if !text.trim_ascii_start().starts_with('{') {
        return Err(DecodeError::showing("is not a JSON object", text));
    }
    serde_json::from_str(text).map_err(|error| not_json(&error))
}

/// The same for an object within a value.
pub(super) fn inner<T: DeserializeOwned>(value: serde_json::Value) -> Result<T, DecodeError> {
    if !value.is_object() {
        let text = value.to_string();
        return Err(DecodeError::showing("holds no JSON object", &text));
    }
    serde_json::from_value(value).map_err(|error| not_json(&error))
}

/// A value that is UTF-8 text.
pub(super) fn text(value: &[u8]) -> Result<&str, DecodeError> {
    std::str::from_utf8(value).map_err(|_| DecodeError::new("is not UTF-8"))
}

/// Cannot fail for our types: maps have text as keys.
pub(super) fn write(value: &impl serde::Serialize) -> String {
    serde_json::to_string(value).unwrap_or_default()
}

fn not_json(error: &serde_json::Error) -> DecodeError {
    DecodeError::new(format!("is not the JSON of an instance: {error}"))
}
