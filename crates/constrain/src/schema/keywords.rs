//! The keywords of a schema, each at its place: which the compiler enforces, which it cannot.

use serde_json::{Map, Value};

use super::formats;
use crate::form::Rigour;
use crate::{Error, pattern};

/// Keywords with a meaning that cannot be enforced token by token, or that the compiler lacks.
const NOT_ENFORCED: [&str; 19] = [
    "$dynamicRef",
    "$recursiveRef",
    "contains",
    "dependencies",
    "dependentRequired",
    "dependentSchemas",
    "else",
    "if",
    "maxContains",
    "minContains",
    "not",
    "propertyNames",
    "then",
    "unevaluatedItems",
    "unevaluatedProperties",
    "uniqueItems",
    // Meaningless without the others.
    "$dynamicAnchor",
    "$recursiveAnchor",
    "$vocabulary",
];

/// Finds what is not enforced: the first is an error, or all are taken out with a warning.
pub(super) fn settle(
    schema: &mut Value,
    path: &str,
    rigour: Rigour,
    warnings: &mut Vec<String>,
) -> Result<(), Error> {
    let mut settling = Settling { rigour, warnings };
    settling.schema(schema, &format!("{path}#"))
}

struct Settling<'a> {
    rigour: Rigour,
    warnings: &'a mut Vec<String>,
}

impl Settling<'_> {
    fn schema(&mut self, schema: &mut Value, path: &str) -> Result<(), Error> {
        let Value::Object(members) = schema else {
            return match schema {
                Value::Bool(_) => Ok(()),
                _ => Err(Error::schema(path, "a schema is an object or a boolean")),
            };
        };
        let found: Vec<String> =
            members.keys().filter(|key| NOT_ENFORCED.contains(&key.as_str())).cloned().collect();
        for keyword in found {
            // False and empty forms ask for nothing.
            let asks = !matches!(&members[&keyword], Value::Bool(false));
            if asks {
                self.report(path, &format!("the keyword {keyword:?} is not supported"))?;
            }
            members.shift_remove(&keyword);
        }
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
        if !formats::is_known(format) {
            self.report(path, &format!("the format {format:?} is not supported"))?;
            members.shift_remove("format");
        }
        Ok(())
    }

    fn pattern(&mut self, members: &mut Map<String, Value>, path: &str) -> Result<(), Error> {
        let check = |text: &str| pattern::to_lark(text, pattern::Meaning::Somewhere).err();
        if let Some(Value::String(text)) = members.get("pattern")
            && let Some(what) = check(text)
        {
            self.report(path, &format!("\"pattern\": {what}"))?;
            members.shift_remove("pattern");
        }
        if let Some(Value::Object(schemas)) = members.get("patternProperties")
            && let Some(what) = schemas.keys().find_map(|text| check(text))
        {
            self.report(path, &format!("\"patternProperties\": {what}"))?;
            members.shift_remove("patternProperties");
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
