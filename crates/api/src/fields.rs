//! Reading typed fields of a JSON object, with errors that name the field. Unknown fields are never
//! looked at; a known field of the wrong type is an error; null counts as absent.

use serde_json::{Map, Value};

use crate::RequestError;

/// An object of a request, with the path under which errors name it.
#[derive(Clone, Copy)]
pub(crate) struct Fields<'a> {
    object: &'a Map<String, Value>,
    path: &'a str,
}

impl<'a> Fields<'a> {
    /// Takes `value` as an object.
    pub(crate) fn of(value: &'a Value, path: &'a str) -> Result<Self, RequestError> {
        match value {
            Value::Object(object) => Ok(Self { object, path }),
            other => Err(wrong(path, "an object", other)),
        }
    }

    pub(crate) fn path(&self) -> &'a str {
        self.path
    }

    pub(crate) fn object(&self) -> &'a Map<String, Value> {
        self.object
    }

    /// The value of a field that is there and not null.
    pub(crate) fn get(&self, key: &str) -> Option<&'a Value> {
        self.object.get(key).filter(|value| !value.is_null())
    }

    fn name(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }

    fn typed<T>(
        &self,
        key: &str,
        expected: &str,
        convert: impl FnOnce(&'a Value) -> Option<T>,
    ) -> Result<Option<T>, RequestError> {
        let Some(value) = self.get(key) else { return Ok(None) };
        convert(value).map(Some).ok_or_else(|| wrong(&self.name(key), expected, value))
    }

    pub(crate) fn str(&self, key: &str) -> Result<Option<&'a str>, RequestError> {
        self.typed(key, "a string", Value::as_str)
    }

    pub(crate) fn bool(&self, key: &str) -> Result<Option<bool>, RequestError> {
        self.typed(key, "true or false", Value::as_bool)
    }

    pub(crate) fn array(&self, key: &str) -> Result<Option<&'a [Value]>, RequestError> {
        self.typed(key, "an array", |value| value.as_array().map(Vec::as_slice))
    }

    pub(crate) fn unsigned(&self, key: &str) -> Result<Option<u64>, RequestError> {
        self.typed(key, "an integer from 0", Value::as_u64)
    }

    /// A number that fits a `u32`; larger ones become the largest.
    pub(crate) fn count(&self, key: &str) -> Result<Option<u32>, RequestError> {
        Ok(self.unsigned(key)?.map(|n| u32::try_from(n).unwrap_or(u32::MAX)))
    }

    /// A number inside a range that the error spells out.
    pub(crate) fn number(
        &self,
        key: &str,
        range: &str,
        is_valid: impl Fn(f64) -> bool,
    ) -> Result<Option<f32>, RequestError> {
        let Some(x) = self.typed(key, "a number", Value::as_f64)? else { return Ok(None) };
        if !is_valid(x) {
            return Err(RequestError::invalid(format!(
                "Invalid {key} value, the valid range of {key} is {range}"
            )));
        }
        #[expect(clippy::cast_possible_truncation, reason = "sampling works in f32")]
        Ok(Some(x as f32))
    }
}

/// The error for a value of the wrong type.
pub(crate) fn wrong(path: &str, expected: &str, found: &Value) -> RequestError {
    let found = match found {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    };
    let place = if path.is_empty() { "request body" } else { path };
    RequestError::invalid(format!("{place}: expected {expected}, found {found}"))
}
