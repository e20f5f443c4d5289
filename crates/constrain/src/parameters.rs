//! The parameters of a function, read off its schema.

use serde_json::Value;

use crate::schema::{Walk, resolve, steps};

/// One declared parameter.
#[derive(Clone, Debug)]
pub(crate) struct Parameter<'a> {
    pub(crate) key: String,
    pub(crate) schema: &'a Value,
    pub(crate) is_required: bool,
}

/// All parameters of a function.
#[derive(Clone, Debug)]
pub(crate) struct Parameters<'a> {
    /// In the order of their declaration.
    pub(crate) known: Vec<Parameter<'a>>,
    /// What a parameter with another key must be; `None` when there is to be none.
    pub(crate) extra: Option<&'a Value>,
    /// Whether this says all that the schema says about which parameters there are.
    pub(crate) is_whole: bool,
}

const ANYTHING: &Value = &Value::Bool(true);

impl<'a> Parameters<'a> {
    /// Reads a function's schema. One that names parameters and does not speak of others is taken
    /// to mean no others: a model that invents one has erred.
    pub(crate) fn of(root: &'a Value) -> Self {
        let mut reader = Reader {
            root,
            is_open: false,
            parameters: Self { known: Vec::new(), extra: None, is_whole: true },
        };
        let steps = steps();
        reader.read(root, true, Walk::new(&steps));
        let Reader { mut parameters, is_open, .. } = reader;
        let names_none = root.get("properties").is_none() && parameters.known.is_empty();
        parameters.extra = match root.get("additionalProperties") {
            Some(Value::Bool(false)) => None,
            Some(schema) => Some(schema),
            None if is_open || names_none => Some(ANYTHING),
            None => None,
        };
        parameters
    }

    /// Adds a parameter. One that two alternatives declare may be anything.
    fn add(&mut self, key: &str, schema: &'a Value, is_certain: bool) {
        match self.known.iter_mut().find(|known| known.key == key) {
            Some(known) if is_certain || known.schema == schema => {}
            Some(known) => known.schema = ANYTHING,
            None => {
                let key = key.to_owned();
                self.known.push(Parameter { key, schema, is_required: false });
            }
        }
    }

    fn require(&mut self, key: &str) {
        self.add(key, ANYTHING, true);
        let known = self.known.iter_mut().find(|known| known.key == key);
        known.expect("just added").is_required = true;
    }
}

struct Reader<'a> {
    root: &'a Value,
    /// Whether unknown keys may come.
    is_open: bool,
    parameters: Parameters<'a>,
}

impl<'a> Reader<'a> {
    /// Reads one schema; it holds for every call if `is_certain`, else it is an alternative.
    fn read(&mut self, schema: &'a Value, is_certain: bool, walk: Walk<'_>) {
        let Some(members) = schema.as_object() else { return };
        let Some(walk) = walk.step() else {
            (self.parameters.is_whole, self.is_open) = (false, true);
            return;
        };
        for (key, value) in members {
            let list = value.as_array().map(Vec::as_slice).unwrap_or_default();
            match key.as_str() {
                "properties" => {
                    for (key, schema) in value.as_object().into_iter().flatten() {
                        self.parameters.add(key, schema, is_certain);
                    }
                }
                "patternProperties" => (self.parameters.is_whole, self.is_open) = (false, true),
                "allOf" | "anyOf" | "oneOf" => {
                    self.parameters.is_whole = false;
                    for schema in list {
                        self.read(schema, is_certain && key == "allOf", walk);
                    }
                }
                "$ref" => {
                    let target = value.as_str().and_then(|path| resolve(self.root, path));
                    if let Some(target) = target {
                        self.read(target, is_certain, walk);
                    } else {
                        (self.parameters.is_whole, self.is_open) = (false, true);
                    }
                }
                "minProperties" | "maxProperties" => self.parameters.is_whole = false,
                _ => {}
            }
        }
        if is_certain {
            let required = members.get("required").and_then(Value::as_array);
            for key in required.into_iter().flatten().filter_map(Value::as_str) {
                self.parameters.require(key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn check(root: &Value, expected: &[(&str, bool)], is_open: bool, is_whole: bool) {
        let found = Parameters::of(root);
        let known: Vec<(&str, bool)> =
            found.known.iter().map(|p| (p.key.as_str(), p.is_required)).collect();
        assert_eq!(known, expected, "{root}");
        assert_eq!((found.extra.is_some(), found.is_whole), (is_open, is_whole), "{root}");
    }

    #[test]
    fn parameters_are_those_of_the_schema() {
        let ab = json!({"a": {"type": "string"}, "b": {}});
        check(
            &json!({"type": "object", "properties": ab, "required": ["b", "c"]}),
            &[("a", false), ("b", true), ("c", true)],
            false,
            true,
        );
        check(
            &json!({"properties": ab, "additionalProperties": {}}),
            &[("a", false), ("b", false)],
            true,
            true,
        );
        check(&json!({"type": "object"}), &[], true, true);
        check(&json!({"type": "object", "properties": {}}), &[], false, true);
        check(
            &json!({"$ref": "#/$defs/p", "$defs": {"p": {"properties": ab}}}),
            &[("a", false), ("b", false)],
            false,
            true,
        );
        check(
            &json!({
                "anyOf": [{"properties": ab, "required": ["a"]}, {"properties": {"a": {}}}],
                "required": ["b"],
            }),
            &[("a", false), ("b", true)],
            false,
            false,
        );
        check(&json!({"$ref": "#"}), &[], true, false);
    }
}
