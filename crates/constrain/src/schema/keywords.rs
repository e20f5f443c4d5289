//! The keywords of a schema, each at its place: which the compiler enforces, which it cannot.

use serde_json::{Map, Value};

use super::formats;
use crate::form::Rigour;
use crate::{Error, limits, pattern};

/// Keywords with a meaning that cannot be enforced token by token, or that the compiler lacks.
const NOT_ENFORCED: [&str; 12] = [
    "$dynamicRef",
    "$recursiveRef",
    "contains",
    "dependencies",
    "dependentRequired",
    "dependentSchemas",
    "if",
    "not",
    "propertyNames",
    "unevaluatedItems",
    "unevaluatedProperties",
    "uniqueItems",
];

/// Keywords that mean nothing without one of those.
const COMPANIONS: [&str; 7] = [
    "$dynamicAnchor",
    "$recursiveAnchor",
    "$vocabulary",
    "else",
    "maxContains",
    "minContains",
    "then",
];

/// Finds what is not enforced: the first is an error, or all are taken out with a warning.
pub(super) fn settle(
    schema: &mut Value,
    path: &str,
    rigour: Rigour,
    warnings: &mut Vec<String>,
) -> Result<(), Error> {
    let mut settling = Settling { rigour, warnings, steps: Vec::new() };
    settling.schema(schema, &format!("{path}#"))
}

struct Settling<'a> {
    rigour: Rigour,
    warnings: &'a mut Vec<String>,
    /// The different values of `multipleOf` so far: any two may meet in one number.
    steps: Vec<f64>,
}

impl Settling<'_> {
    fn schema(&mut self, schema: &mut Value, path: &str) -> Result<(), Error> {
        let Value::Object(members) = schema else {
            return match schema {
                Value::Bool(_) => Ok(()),
                _ => Err(Error::schema(path, "a schema is an object or a boolean")),
            };
        };
        for keyword in COMPANIONS {
            members.shift_remove(keyword);
        }
        close_evaluated(members);
        for keyword in NOT_ENFORCED {
            let asks = match (keyword, members.get(keyword)) {
                (_, None)
                | ("uniqueItems", Some(Value::Bool(false)))
                | ("unevaluatedItems" | "unevaluatedProperties", Some(Value::Bool(true))) => false,
                (_, Some(_)) => true,
            };
            if asks {
                self.report(path, &format!("the keyword {keyword:?} is not supported"))?;
            }
            members.shift_remove(keyword);
        }
        check_width(members, path)?;
        self.numbers(members, path)?;
        self.format(members, path)?;
        self.pattern(members, path)?;
        for (key, value) in members.iter_mut() {
            let path = || format!("{path}/{key}");
            match (key.as_str(), value) {
                (
                    "additionalProperties" | "additionalItems" | "items",
                    value @ (Value::Object(_) | Value::Bool(_)),
                ) => self.schema(value, &path())?,
                ("allOf" | "anyOf" | "oneOf" | "prefixItems" | "items", Value::Array(schemas)) => {
                    for (i, schema) in schemas.iter_mut().enumerate() {
                        self.schema(schema, &format!("{}/{i}", path()))?;
                    }
                }
                (
                    "properties" | "patternProperties" | "$defs" | "definitions",
                    Value::Object(schemas),
                ) => self.map(schemas, &path())?,
                ("allOf" | "anyOf" | "oneOf" | "prefixItems", _) => {
                    return Err(Error::schema(&path(), "must be a list of schemas"));
                }
                ("properties" | "patternProperties", _) => {
                    return Err(Error::schema(&path(), "must be an object of schemas"));
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn map(&mut self, schemas: &mut Map<String, Value>, path: &str) -> Result<(), Error> {
        for (name, schema) in schemas {
            self.schema(schema, &format!("{path}/{name}"))?;
        }
        Ok(())
    }

    fn format(&mut self, members: &mut Map<String, Value>, path: &str) -> Result<(), Error> {
        let Some(Value::String(format)) = members.get("format") else { return Ok(()) };
        if formats::pattern(format).is_none() {
            self.report(path, &format!("the format {format:?} is not supported"))?;
            members.shift_remove("format");
        }
        Ok(())
    }

    fn pattern(&mut self, members: &mut Map<String, Value>, path: &str) -> Result<(), Error> {
        let check = |text: &str| pattern::settle(text, pattern::Meaning::Somewhere).err();
        if let Some(Value::String(text)) = members.get("pattern")
            && let Some(what) = check(text)
        {
            self.report(path, &format!("\"pattern\": {what}"))?;
            members.shift_remove("pattern");
        }
        if let Some(Value::Object(schemas)) = members.get("patternProperties") {
            let patterns: Vec<&str> = schemas.keys().map(String::as_str).collect();
            let what = patterns.iter().find_map(|text| check(text));
            let overlap = || {
                let max = limits::SCHEMA_KEY_PATTERNS_MAX;
                if patterns.len() > max {
                    return Some(format!("more than {max} patterns"));
                }
                let (a, b) = pattern::overlap(&patterns)?;
                Some(format!("{a:?} and {b:?} may match the same key"))
            };
            if let Some(what) = what.or_else(overlap) {
                self.report(path, &format!("\"patternProperties\": {what}"))?;
                // Without the patterns this would forbid what they allow.
                members.shift_remove("additionalProperties");
                members.shift_remove("patternProperties");
            }
        }
        Ok(())
    }

    /// Numbers that the compiler can count with.
    fn numbers(&mut self, members: &mut Map<String, Value>, path: &str) -> Result<(), Error> {
        for keyword in COUNTS {
            if let Some(count) = members.get_mut(keyword)
                && let Some(n) = whole(count)
            {
                *count = n.into();
            }
        }
        for keyword in ["maxLength", "maxItems", "maxProperties"] {
            if members.get(keyword).and_then(Value::as_f64).is_some_and(is_beyond_counts) {
                // As good as no limit.
                members.shift_remove(keyword);
            }
        }
        for keyword in ["minLength", "minItems", "minProperties"] {
            let is_beyond =
                members.get(keyword).and_then(Value::as_f64).is_some_and(is_beyond_counts);
            self.drop_if(is_beyond, keyword, members, path)?;
        }
        for keyword in ["minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"] {
            let bound = members.get(keyword).and_then(Value::as_f64);
            let is_beyond = bound.is_some_and(|x| x.abs() > limits::SCHEMA_NUMBER_MAX);
            self.drop_if(is_beyond, keyword, members, path)?;
        }
        if let Some(step) = members.get("multipleOf").and_then(Value::as_f64) {
            if !self.steps.contains(&step) {
                self.steps.push(step);
            }
            let is_beyond = remainders(&self.steps) > limits::SCHEMA_STEPS_MAX;
            self.drop_if(is_beyond, "multipleOf", members, path)?;
            if is_beyond {
                self.steps.pop();
            }
        }
        Ok(())
    }

    fn drop_if(
        &mut self,
        is_beyond: bool,
        keyword: &str,
        members: &mut Map<String, Value>,
        path: &str,
    ) -> Result<(), Error> {
        if is_beyond {
            let value = &members[keyword];
            self.report(path, &format!("the keyword {keyword:?} with {value} is not supported"))?;
            members.shift_remove(keyword);
        }
        Ok(())
    }

    fn report(&mut self, path: &str, message: &str) -> Result<(), Error> {
        match self.rigour {
            Rigour::Strict => Err(Error::schema(path, message)),
            Rigour::Lenient => {
                self.warnings.push(format!("{path}: {message}; not enforced"));
                Ok(())
            }
        }
    }
}

/// A schema that says itself what is evaluated may as well close its object.
fn close_evaluated(members: &mut Map<String, Value>) {
    let says_itself = !members.keys().any(|key| {
        let others = ["allOf", "anyOf", "oneOf", "$ref", "if", "not", "dependentSchemas"];
        key == "additionalProperties" || key == "$dynamicRef" || others.contains(&key.as_str())
    });
    if says_itself && members.get("unevaluatedProperties") == Some(&Value::Bool(false)) {
        members.shift_remove("unevaluatedProperties");
        members.insert("additionalProperties".into(), Value::Bool(false));
    }
}

/// Keywords whose values count.
const COUNTS: [&str; 6] =
    ["minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties"];

/// The whole number that was written as 2.0.
fn whole(count: &Value) -> Option<u64> {
    let written = count.as_number()?.to_string();
    written.strip_suffix(".0")?.parse().ok()
}

/// Refuses lists of schemas that are too long.
fn check_width(members: &Map<String, Value>, path: &str) -> Result<(), Error> {
    let max = limits::SCHEMA_WIDTH_MAX;
    for keyword in ["properties", "patternProperties", "anyOf", "oneOf", "allOf"] {
        let n = match members.get(keyword) {
            Some(Value::Object(schemas)) => schemas.len(),
            Some(Value::Array(schemas)) => schemas.len(),
            _ => 0,
        };
        if n > max {
            let message = format!("{n} schemas in {keyword:?}; the limit is {max}");
            return Err(Error::complex(path, message));
        }
    }
    Ok(())
}

fn is_beyond_counts(count: f64) -> bool {
    count > limits::SCHEMA_COUNT_MAX as f64
}

/// An upper bound of the least common multiple of these numbers, in units of the last digit that
/// any of them has.
fn remainders(steps: &[f64]) -> f64 {
    let unit = |step: f64| (0..10).map(|e| 10f64.powi(-e)).find(|unit| is_whole(step / unit));
    let Some(units) = steps.iter().map(|step| unit(*step)).collect::<Option<Vec<f64>>>() else {
        return f64::INFINITY;
    };
    let finest = units.into_iter().fold(1.0, f64::min);
    steps.iter().map(|step| (step / finest).max(1.0)).product()
}

fn is_whole(x: f64) -> bool {
    (x - x.round()).abs() < 1e-6 && x.round() >= 1.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn strict(schema: &Value) -> String {
        let settled = settle(&mut schema.clone(), "s", Rigour::Strict, &mut Vec::new());
        settled.err().map_or_else(String::new, |e| e.to_string())
    }

    #[test]
    fn what_is_not_enforced_is_named_with_its_place() {
        for (schema, message) in [
            (json!({"type": "object", "properties": {"not": {"type": "string"}}}), ""),
            (json!({"enum": [{"not": 1}], "default": {"if": 1}, "examples": [{"not": 1}]}), ""),
            (json!({"uniqueItems": false}), ""),
            (
                json!({"items": {"properties": {"a": {"not": {}}}}}),
                "s#/items/properties/a: the keyword \"not\" is not supported",
            ),
            (
                json!({"anyOf": [{}, {"uniqueItems": true}]}),
                "s#/anyOf/1: the keyword \"uniqueItems\" is not supported",
            ),
            (
                json!({"$defs": {"x": {"format": "color"}}}),
                "s#/$defs/x: the format \"color\" is not supported",
            ),
            (json!({"pattern": "a\\b"}), "s#: \"pattern\": a word boundary or a multi-line anchor"),
            (json!({"properties": []}), "s#/properties: must be an object of schemas"),
            (json!({"anyOf": {}}), "s#/anyOf: must be a list of schemas"),
            (
                json!({"items": {"properties": {"a": 1}}}),
                "s#/items/properties/a: a schema is an object or a boolean",
            ),
            (json!({"minimum": 1e300}), "s#: the keyword \"minimum\" with 1e+300 is not supported"),
            (
                json!({"multipleOf": 99_999_989}),
                "s#: the keyword \"multipleOf\" with 99999989 is not supported",
            ),
            (
                json!({"properties": {"a": {"multipleOf": 101}, "b": {"multipleOf": 103}}}),
                "s#/properties/b: the keyword \"multipleOf\" with 103 is not supported",
            ),
            (json!({"properties": {"a": {"multipleOf": 0.01}, "b": {"multipleOf": 0.5}}}), ""),
            (json!({"maxLength": 1e12}), ""),
            (json!({"unevaluatedProperties": false, "properties": {"a": {}}}), ""),
            (
                json!({"unevaluatedProperties": false, "allOf": []}),
                "s#: the keyword \"unevaluatedProperties\" is not supported",
            ),
            (json!({"contains": false}), "s#: the keyword \"contains\" is not supported"),
            (json!({"then": {}, "minContains": 1}), ""),
            (
                json!({"patternProperties": {"^a": {}, "b": {}}}),
                "s#: \"patternProperties\": \"^a\" and \"b\" may match the same key",
            ),
            (json!({"patternProperties": {"^a": {}, "^b": {}}}), ""),
        ] {
            assert_eq!(strict(&schema), message, "{schema}");
        }
    }

    #[test]
    fn the_lenient_reader_keeps_the_rest() {
        let mut schema =
            json!({"type": "array", "uniqueItems": true, "items": {"not": {}, "type": "null"}});
        schema["items"]["patternProperties"] = json!({"a": {}, "b": {}});
        schema["items"]["additionalProperties"] = json!(false);
        schema["minItems"] = json!(2.0);
        let mut warnings = Vec::new();
        settle(&mut schema, "s", Rigour::Lenient, &mut warnings).unwrap();
        assert_eq!(schema, json!({"type": "array", "items": {"type": "null"}, "minItems": 2}));
        assert_eq!(
            warnings,
            [
                "s#: the keyword \"uniqueItems\" is not supported; not enforced",
                "s#/items: the keyword \"not\" is not supported; not enforced",
                "s#/items: \"patternProperties\": \"a\" and \"b\" may match the same key; \
                 not enforced",
            ]
        );
    }
}
