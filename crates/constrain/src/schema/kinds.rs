//! Of which types the values of a schema may be.

use serde_json::Value;

use super::{Walk, resolve, steps};

/// A set of JSON types.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Kinds(u8);

impl Kinds {
    pub(crate) const NONE: Self = Self(0);
    pub(crate) const STRING: Self = Self(1);
    pub(crate) const OBJECT: Self = Self(2);
    pub(crate) const ARRAY: Self = Self(4);
    pub(crate) const INTEGER: Self = Self(8);
    /// Numbers with a fraction or an exponent; whole ones are [`Self::INTEGER`].
    pub(crate) const FRACTION: Self = Self(16);
    pub(crate) const BOOLEAN: Self = Self(32);
    pub(crate) const NULL: Self = Self(64);
    pub(crate) const ALL: Self = Self(127);

    /// The types of a schema's values, as far as it says.
    pub(crate) fn of(root: &Value, schema: &Value) -> Self {
        of(root, schema, Walk::new(&steps()))
    }

    pub(crate) fn has(self, kinds: Self) -> bool {
        self.0 & kinds.0 != 0
    }

    pub(crate) fn without(self, kinds: Self) -> Self {
        Self(self.0 & !kinds.0)
    }

    pub(crate) fn or(self, kinds: Self) -> Self {
        Self(self.0 | kinds.0)
    }

    fn and(self, kinds: Self) -> Self {
        Self(self.0 & kinds.0)
    }

    fn any(kinds: impl IntoIterator<Item = Self>) -> Self {
        kinds.into_iter().fold(Self::NONE, Self::or)
    }

    fn named(name: &Value) -> Self {
        match name.as_str() {
            Some("string") => Self::STRING,
            Some("object") => Self::OBJECT,
            Some("array") => Self::ARRAY,
            Some("integer") => Self::INTEGER,
            Some("number") => Self::INTEGER.or(Self::FRACTION),
            Some("boolean") => Self::BOOLEAN,
            Some("null") => Self::NULL,
            _ => Self::ALL,
        }
    }

    fn value(value: &Value) -> Self {
        match value {
            Value::String(_) => Self::STRING,
            Value::Object(_) => Self::OBJECT,
            Value::Array(_) => Self::ARRAY,
            Value::Number(n) if n.is_i64() || n.is_u64() => Self::INTEGER,
            Value::Number(_) => Self::FRACTION,
            Value::Bool(_) => Self::BOOLEAN,
            Value::Null => Self::NULL,
        }
    }

    /// Names of the types, for a schema.
    pub(crate) fn names(self) -> Vec<&'static str> {
        let number = if self.has(Self::FRACTION) { "number" } else { "integer" };
        [
            (Self::STRING, "string"),
            (Self::OBJECT, "object"),
            (Self::ARRAY, "array"),
            (Self::INTEGER.or(Self::FRACTION), number),
            (Self::BOOLEAN, "boolean"),
            (Self::NULL, "null"),
        ]
        .into_iter()
        .filter(|(kinds, _)| self.has(*kinds))
        .map(|(_, name)| name)
        .collect()
    }
}

/// What the walk does not reach is taken for any type.
fn of(root: &Value, schema: &Value, walk: Walk<'_>) -> Kinds {
    let Some(walk) = walk.step() else { return Kinds::ALL };
    let object = match schema {
        Value::Bool(false) => return Kinds::NONE,
        Value::Object(object) => object,
        _ => return Kinds::ALL,
    };
    let mut kinds = Kinds::ALL;
    for (key, value) in object {
        let list = || value.as_array().map(Vec::as_slice).unwrap_or_default();
        let each = || list().iter().map(|schema| of(root, schema, walk));
        kinds = kinds.and(match key.as_str() {
            "type" if value.is_array() => Kinds::any(list().iter().map(Kinds::named)),
            "type" => Kinds::named(value),
            "enum" => Kinds::any(list().iter().map(Kinds::value)),
            "const" => Kinds::value(value),
            "anyOf" | "oneOf" => Kinds::any(each()),
            "allOf" => each().fold(Kinds::ALL, Kinds::and),
            "$ref" => match value.as_str().and_then(|reference| resolve(root, reference)) {
                Some(target) => of(root, target, walk),
                None => Kinds::ALL,
            },
            _ => Kinds::ALL,
        });
    }
    kinds
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn types_are_found_wherever_they_are_said() {
        let root = json!({"$defs": {
            "s": {"type": "string"}, "loop": {"$ref": "#/$defs/loop"},
        }});
        for (schema, expected) in [
            (json!({}), vec!["string", "object", "array", "number", "boolean", "null"]),
            (json!(false), vec![]),
            (json!({"type": "integer"}), vec!["integer"]),
            (json!({"type": ["string", "null"]}), vec!["string", "null"]),
            (
                json!({"anyOf": [{"$ref": "#/$defs/s"}, {"type": "number"}]}),
                vec!["string", "number"],
            ),
            (json!({"enum": ["a", 1, null]}), vec!["string", "integer", "null"]),
            (json!({"const": 1.5}), vec!["number"]),
            (json!({"type": "string", "enum": [1, "a"]}), vec!["string"]),
            (json!({"allOf": [{"type": ["array", "object"]}, {"type": ["array"]}]}), vec!["array"]),
            (json!({"$ref": "#/$defs/loop", "type": "null"}), vec!["null"]),
        ] {
            assert_eq!(Kinds::of(&root, &schema).names(), expected, "{schema}");
        }
    }
}
