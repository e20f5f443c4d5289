//! The schema of a strict tool, as the hosted API rewrites it: every object requires all of its
//! properties and allows no others; keywords outside the strict subset are dropped.

use serde_json::{Map, Value, json};

use crate::RequestError;

/// How deep a schema may nest.
const DEPTH_MAX: usize = 100;

/// The rewritten schema of a strict tool's parameters; a missing one allows no parameter.
pub(crate) fn strict_parameters(parameters: Option<&Value>) -> Result<Value, RequestError> {
    let Some(schema) = parameters else {
        return Ok(json!({
            "type": "object", "properties": {}, "additionalProperties": false, "required": [],
        }));
    };
    let strict = strict(schema, true, 0)?;
    if strict.get("type") != Some(&json!("object")) {
        return Err(RequestError::invalid(
            "The top level of the function parameters schema must be an object.",
        ));
    }
    Ok(strict)
}

/// Checks the schema of an answer format.
pub(crate) fn check_answer(schema: &Value, is_strict: bool) -> Result<(), RequestError> {
    if !is_strict {
        if matches!(schema, Value::Object(_) | Value::Bool(_)) {
            return Ok(());
        }
        return Err(RequestError::invalid(format!(
            "Invalid json schema: {schema} is not of types \"boolean\", \"object\""
        )));
    }
    let strict = strict(schema, false, 0).map_err(|mut error| {
        if let Some(what) = error.message.strip_prefix(INVALID) {
            error.message = format!("Invalid json schema: {what}");
        }
        error
    })?;
    match strict.get("type") {
        Some(Value::String(ty)) if ty == "object" => Ok(()),
        _ => Err(RequestError::invalid("The top level of the json schema must be an object.")),
    }
}

/// What errors about the form of a strict schema begin with.
const INVALID: &str = "Invalid tool parameters schema : ";

fn invalid(what: impl std::fmt::Display) -> RequestError {
    RequestError::invalid(format!("{INVALID}{what}"))
}

fn strict(schema: &Value, may_be_empty: bool, depth: usize) -> Result<Value, RequestError> {
    if depth > DEPTH_MAX {
        return Err(invalid("nested too deeply"));
    }
    match schema.get("type") {
        Some(Value::Array(types)) => {
            let known = |t: &Value| {
                matches!(t.as_str(), Some("string" | "number" | "integer" | "boolean" | "null"))
            };
            if !types.iter().all(known) {
                return Err(invalid("a type list may name scalar types only"));
            }
            keep(schema, &["type", "description"])
        }
        Some(Value::String(ty)) => typed(schema, ty, may_be_empty, depth),
        Some(_) => Err(invalid("type must be a string or a list")),
        None => untyped(schema, depth),
    }
}

fn untyped(schema: &Value, depth: usize) -> Result<Value, RequestError> {
    if let Some(choices) = schema.get("anyOf") {
        let choices = choices.as_array().ok_or_else(|| invalid("anyOf must be a list"))?;
        let choice = |choice: &Value| match choice.get("type") {
            Some(Value::String(ty)) => typed(choice, ty, false, depth + 1),
            _ => Err(invalid("each choice of anyOf needs a type")),
        };
        let choices = choices.iter().map(choice).collect::<Result<Vec<_>, _>>()?;
        let mut out = Map::from_iter([("anyOf".to_owned(), Value::Array(choices))]);
        copy(schema, "description", &mut out);
        return Ok(Value::Object(out));
    }
    if schema.get("$ref").is_some() {
        return keep(schema, &["$ref"]);
    }
    Err(invalid("one of `type`, `anyOf`, `$ref` field is required"))
}

fn typed(
    schema: &Value,
    ty: &str,
    may_be_empty: bool,
    depth: usize,
) -> Result<Value, RequestError> {
    match ty {
        "object" => object(schema, may_be_empty, depth),
        "array" => {
            let items = schema.get("items").ok_or_else(|| invalid("missing field `items`"))?;
            let items = strict(items, false, depth + 1)?;
            let mut out = Map::from_iter([("type".to_owned(), json!("array"))]);
            out.insert("items".to_owned(), items);
            copy(schema, "description", &mut out);
            Ok(Value::Object(out))
        }
        "string" => keep(schema, &["type", "description", "pattern", "format", "enum"]),
        "number" | "integer" => keep(
            schema,
            &[
                "type",
                "description",
                "const",
                "default",
                "minimum",
                "maximum",
                "exclusiveMinimum",
                "exclusiveMaximum",
                "multipleOf",
            ],
        ),
        "boolean" | "null" => keep(schema, &["type", "description"]),
        other => Err(invalid(format_args!("unknown type {other:?}"))),
    }
}

fn object(schema: &Value, may_be_empty: bool, depth: usize) -> Result<Value, RequestError> {
    let empty = Map::new();
    let members = |key: &str| match schema.get(key) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Object(object)) => Ok(Some(object)),
        Some(_) => Err(invalid(format_args!("{key} must be an object"))),
    };
    let properties = members("properties")?.unwrap_or(&empty);
    if properties.is_empty() && !may_be_empty {
        return Err(RequestError::invalid("An object with no properties is not allowed."));
    }
    let strict_members = |object: &Map<String, Value>| {
        let member =
            |(key, value): (&String, &Value)| Ok((key.clone(), strict(value, false, depth + 1)?));
        object.iter().map(member).collect::<Result<Map<_, _>, RequestError>>()
    };
    let strict_properties = strict_members(properties)?;
    let definitions = members("$def")?.map(strict_members).transpose()?;
    check_required(schema, properties)?;
    if schema.get("additionalProperties") == Some(&Value::Bool(true)) {
        return Err(RequestError::invalid("additionalProperties should not be true"));
    }
    let mut out = Map::from_iter([("type".to_owned(), json!("object"))]);
    out.insert("properties".to_owned(), Value::Object(strict_properties));
    out.insert("additionalProperties".to_owned(), json!(false));
    out.insert("required".to_owned(), properties.keys().cloned().collect());
    copy(schema, "description", &mut out);
    if let Some(definitions) = definitions {
        out.insert("$def".to_owned(), Value::Object(definitions));
    }
    Ok(Value::Object(out))
}

/// A `required` list must name every property once and nothing else.
fn check_required(schema: &Value, properties: &Map<String, Value>) -> Result<(), RequestError> {
    let required = match schema.get("required") {
        None | Some(Value::Null) => return Ok(()),
        Some(Value::Array(required)) => required,
        Some(_) => return Err(invalid("required must be a list")),
    };
    let mut seen = std::collections::HashSet::new();
    for key in required {
        let key = key.as_str().ok_or_else(|| invalid("required must list strings"))?;
        if !properties.contains_key(key) {
            return Err(RequestError::invalid(format!(
                "Required property '{key}' not found in object"
            )));
        }
        if !seen.insert(key) {
            return Err(RequestError::invalid(format!("Duplicate required property '{key}'")));
        }
    }
    if seen.len() != properties.len() {
        return Err(RequestError::invalid(
            "Required properties must match all properties in the object",
        ));
    }
    Ok(())
}

/// The schema with these keywords only, in this order.
fn keep(schema: &Value, keywords: &[&str]) -> Result<Value, RequestError> {
    let mut out = Map::new();
    for keyword in keywords {
        copy(schema, keyword, &mut out);
    }
    match out.get("description") {
        None | Some(Value::String(_)) => Ok(Value::Object(out)),
        Some(_) => Err(invalid("description must be a string")),
    }
}

fn copy(schema: &Value, keyword: &str, out: &mut Map<String, Value>) {
    if let Some(value) = schema.get(keyword).filter(|value| !value.is_null()) {
        out.insert(keyword.to_owned(), value.clone());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(schema: &Value, expected: Result<&str, &str>) {
        let found = strict_parameters(Some(schema)).map(|strict| strict.to_string());
        let found = found.as_ref().map(String::as_str).map_err(|e| e.message.as_str());
        assert_eq!(found, expected, "{schema}");
    }

    #[test]
    fn objects_are_closed_and_keywords_ordered() {
        check(
            &json!({
                "$schema": "x", "description": "d", "additionalProperties": false,
                "properties": {
                    "b": {"enum": ["x"], "type": "string", "minLength": 2, "description": "s"},
                    "a": {"type": "object", "properties": {"n": {"minimum": 1, "type": "integer"}}},
                    "l": {"type": "array", "description": "l",
                          "items": {"type": ["string", "null"]}},
                    "u": {"description": "u", "anyOf": [{"type": "null"}, {"type": "boolean"}]},
                },
                "type": "object",
            }),
            Ok(concat!(
                r#"{"type":"object","properties":{"#,
                r#""b":{"type":"string","description":"s","enum":["x"]},"#,
                r#""a":{"type":"object","properties":{"n":{"type":"integer","minimum":1}},"#,
                r#""additionalProperties":false,"required":["n"]},"#,
                r#""l":{"type":"array","items":{"type":["string","null"]},"description":"l"},"#,
                r#""u":{"anyOf":[{"type":"null"},{"type":"boolean"}],"description":"u"}},"#,
                r#""additionalProperties":false,"required":["b","a","l","u"],"description":"d"}"#,
            )),
        );
        let none =
            r#"{"type":"object","properties":{},"additionalProperties":false,"required":[]}"#;
        check(&json!({"type": "object"}), Ok(none));
        assert_eq!(strict_parameters(None).unwrap().to_string(), none);
    }

    #[test]
    fn what_is_not_strict_is_refused() {
        let a = json!({"a": {"type": "string"}});
        for (schema, message) in [
            (
                json!({"type": "string"}),
                "The top level of the function parameters schema must be an object.",
            ),
            (
                json!({"type": "object", "properties": a, "required": ["z"]}),
                "Required property 'z' not found in object",
            ),
            (
                json!({"type": "object", "properties": a, "required": ["a", "a"]}),
                "Duplicate required property 'a'",
            ),
            (
                json!({"type": "object", "properties": a, "required": []}),
                "Required properties must match all properties in the object",
            ),
            (
                json!({"type": "object", "properties": a, "additionalProperties": true}),
                "additionalProperties should not be true",
            ),
            (
                json!({"type": "object", "properties": {"o": {"type": "object"}}}),
                "An object with no properties is not allowed.",
            ),
        ] {
            check(&schema, Err(message));
        }
    }
}
