//! A validator for the part of JSON Schema that the tests use, written against the specification
//! and independent of the compiler that it checks.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use serde_json::Value;

/// Why an instance is not valid; nothing when it is.
pub(crate) fn errors(root: &Value, schema: &Value, instance: &Value) -> Vec<String> {
    let mut errors = Vec::new();
    check(root, schema, instance, "", &mut errors);
    errors
}

fn is_valid(root: &Value, schema: &Value, instance: &Value) -> bool {
    errors(root, schema, instance).is_empty()
}

fn check(root: &Value, schema: &Value, instance: &Value, path: &str, errors: &mut Vec<String>) {
    let Some(keywords) = schema.as_object() else {
        if schema == &Value::Bool(false) {
            errors.push(format!("{path}: nothing is allowed"));
        }
        return;
    };
    for (keyword, value) in keywords {
        let list = || value.as_array().unwrap();
        let holds = match keyword.as_str() {
            "type" => match value {
                Value::Array(types) => types.iter().any(|ty| is_of_type(instance, ty)),
                ty => is_of_type(instance, ty),
            },
            "enum" => list().iter().any(|v| same(v, instance)),
            "const" => same(value, instance),
            "anyOf" => list().iter().any(|schema| is_valid(root, schema, instance)),
            "oneOf" => list().iter().filter(|s| is_valid(root, s, instance)).count() == 1,
            "allOf" => list().iter().all(|schema| is_valid(root, schema, instance)),
            "$ref" => {
                let target = root.pointer(&value.as_str().unwrap()[1..]).unwrap();
                is_valid(root, target, instance)
            }
            "minimum" => number(instance).is_none_or(|x| x >= number(value).unwrap()),
            "maximum" => number(instance).is_none_or(|x| x <= number(value).unwrap()),
            "exclusiveMinimum" => number(instance).is_none_or(|x| x > number(value).unwrap()),
            "exclusiveMaximum" => number(instance).is_none_or(|x| x < number(value).unwrap()),
            "multipleOf" => number(instance).is_none_or(|x| x % number(value).unwrap() == 0.0),
            "minLength" => len(instance).is_none_or(|n| n >= value.as_u64().unwrap()),
            "maxLength" => len(instance).is_none_or(|n| n <= value.as_u64().unwrap()),
            "minItems" => items(instance).is_none_or(|n| n >= value.as_u64().unwrap()),
            "maxItems" => items(instance).is_none_or(|n| n <= value.as_u64().unwrap()),
            _ => true,
        };
        if !holds {
            errors.push(format!("{path}: {instance} breaks {keyword} {value}"));
        }
    }
    check_members(root, schema, instance, path, errors);
}

fn check_members(
    root: &Value,
    schema: &Value,
    instance: &Value,
    path: &str,
    errors: &mut Vec<String>,
) {
    match instance {
        Value::Object(members) => {
            for key in schema["required"].as_array().into_iter().flatten() {
                if !members.contains_key(key.as_str().unwrap()) {
                    errors.push(format!("{path}: {key} is missing"));
                }
            }
            for (key, member) in members {
                let known = schema.get("properties").and_then(|p| p.get(key));
                if let Some(schema) = known.or_else(|| schema.get("additionalProperties")) {
                    check(root, schema, member, &format!("{path}/{key}"), errors);
                }
            }
        }
        Value::Array(items) => {
            let prefix = schema["prefixItems"].as_array().map(Vec::as_slice).unwrap_or_default();
            for (i, item) in items.iter().enumerate() {
                if let Some(schema) = prefix.get(i).or_else(|| schema.get("items")) {
                    check(root, schema, item, &format!("{path}/{i}"), errors);
                }
            }
        }
        _ => {}
    }
}

fn is_of_type(instance: &Value, ty: &Value) -> bool {
    match ty.as_str().unwrap() {
        "null" => instance.is_null(),
        "boolean" => instance.is_boolean(),
        "string" => instance.is_string(),
        "array" => instance.is_array(),
        "object" => instance.is_object(),
        "number" => instance.is_number(),
        "integer" => number(instance).is_some_and(|x| x.fract() == 0.0),
        other => panic!("type {other}"),
    }
}

fn number(value: &Value) -> Option<f64> {
    value.as_number().map(|n| n.to_string().parse().unwrap())
}

fn same(a: &Value, b: &Value) -> bool {
    match (number(a), number(b)) {
        (Some(a), Some(b)) => a.to_bits() == b.to_bits(),
        _ => a == b,
    }
}

fn len(value: &Value) -> Option<u64> {
    value.as_str().map(|text| text.chars().count() as u64)
}

fn items(value: &Value) -> Option<u64> {
    value.as_array().map(|items| items.len() as u64)
}
