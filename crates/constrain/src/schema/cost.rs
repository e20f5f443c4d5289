//! What compiling a schema would cost, before it is tried.
//!
//! The compiler multiplies combinations out: `anyOf` beside other keywords copies those into every
//! alternative, and a reference beside other keywords copies what it points to. Chains of them grow
//! exponentially in the length of the schema, so the size is computed instead of tried: an upper
//! bound, in time linear in the schema.

use std::collections::HashMap;

use serde_json::{Map, Value};

use super::resolve;
use crate::{Error, limits};

/// Refuses a schema that would take too many nodes.
pub(super) fn check(schema: &Value, path: &str) -> Result<(), Error> {
    let mut estimate =
        Estimate { root: schema, inlined: HashMap::new(), referenced: HashMap::new(), patterns: 0 };
    let mut nodes = estimate.size(schema, false).nodes;
    let (n, max) = (estimate.patterns, limits::SCHEMA_PATTERNS_MAX);
    if n > max {
        let message = format!("{n} patterns for one string; the limit is {max}");
        return Err(Error::complex(path, message));
    }
    for found in estimate.referenced.values() {
        nodes = nodes.saturating_add(found.map_or(0, |size| size.nodes));
    }
    let max = limits::SCHEMA_NODES_MAX;
    if nodes <= max {
        return Ok(());
    }
    Err(Error::complex(
        path,
        format!("the schema has about {nodes} combinations; the limit is {max}"),
    ))
}

/// Alternatives of a schema, and nodes in all of them together.
#[derive(Clone, Copy, Debug)]
struct Size {
    width: u64,
    nodes: u64,
    /// Patterns that a string must match in one of the alternatives.
    patterns: u64,
}

const ONE: Size = Size { width: 1, nodes: 1, patterns: 0 };

impl Size {
    fn both(self, other: Self) -> Self {
        let nodes = |a: Self, b: Self| a.nodes.saturating_mul(b.width);
        Self {
            width: self.width.saturating_mul(other.width),
            nodes: nodes(self, other).saturating_add(nodes(other, self)),
            patterns: self.patterns.saturating_add(other.patterns),
        }
    }
}

struct Estimate<'a> {
    root: &'a Value,
    /// Targets of references that are copied; `None` while they are being measured.
    inlined: HashMap<&'a str, Option<Size>>,
    /// Targets of references that stay references.
    referenced: HashMap<&'a str, Option<Size>>,
    /// The most patterns that any string must match.
    patterns: u64,
}

impl<'a> Estimate<'a> {
    fn size(&mut self, schema: &'a Value, is_inlined: bool) -> Size {
        let Some(members) = schema.as_object() else { return ONE };
        let all = members.get("allOf").and_then(Value::as_array).map_or(0, Vec::len);
        let single = ["const", "enum", "anyOf", "oneOf", "$ref"];
        let combined = all + single.iter().filter(|key| members.contains_key(**key)).count();
        let has_own = members.keys().any(|key| OWN.contains(&key.as_str()));
        let is_inlined = is_inlined || combined + usize::from(has_own) > 1;
        let mut size = if has_own { self.own(members, is_inlined) } else { ONE };
        for (key, value) in members {
            let list = value.as_array().map(Vec::as_slice).unwrap_or_default();
            match key.as_str() {
                "const" => size = size.both(Size { nodes: values(value), ..ONE }),
                "enum" => {
                    let nodes = list.iter().map(values).sum();
                    size = size.both(Size { width: list.len() as u64, nodes, patterns: 0 });
                }
                "anyOf" | "oneOf" => {
                    let any = self.any(list, is_inlined);
                    size = if combined == 1 && !has_own { any } else { size.both(any) };
                }
                "allOf" => {
                    for schema in list {
                        size = size.both(self.size(schema, is_inlined));
                    }
                }
                "$ref" => size = size.both(self.reference(value, is_inlined)),
                _ => {}
            }
        }
        self.patterns = self.patterns.max(size.patterns);
        size
    }

    fn any(&mut self, list: &'a [Value], is_inlined: bool) -> Size {
        let mut any = Size { width: 0, nodes: 1, patterns: 0 };
        for schema in list {
            let one = self.size(schema, is_inlined);
            any.width = any.width.saturating_add(one.width);
            any.nodes = any.nodes.saturating_add(one.nodes);
            any.patterns = any.patterns.max(one.patterns);
        }
        any
    }

    /// The keywords that are not combinations.
    fn own(&mut self, members: &'a Map<String, Value>, is_inlined: bool) -> Size {
        let mut nodes = match members.get("type") {
            None => 6,
            Some(Value::Array(types)) => types.len() as u64,
            Some(_) => 1,
        };
        for (key, value) in members {
            match (key.as_str(), value) {
                ("properties" | "patternProperties", Value::Object(schemas)) => {
                    for schema in schemas.values() {
                        nodes = nodes.saturating_add(self.size(schema, is_inlined).nodes);
                    }
                }
                ("items" | "prefixItems", Value::Array(schemas)) => {
                    for schema in schemas {
                        nodes = nodes.saturating_add(self.size(schema, is_inlined).nodes);
                    }
                }
                ("items" | "additionalItems" | "additionalProperties", schema) => {
                    nodes = nodes.saturating_add(self.size(schema, is_inlined).nodes);
                }
                _ => {}
            }
        }
        // Types are alternatives that do not multiply: what is of two types is nothing.
        let has = |key: &str| u64::from(members.contains_key(key));
        Size { width: 1, nodes, patterns: has("pattern") + has("format") }
    }

    fn reference(&mut self, reference: &'a Value, is_inlined: bool) -> Size {
        let Some(path) = reference.as_str() else { return ONE };
        let Some(target) = resolve(self.root, path) else { return ONE };
        let known = if is_inlined { &mut self.inlined } else { &mut self.referenced };
        if let Some(known) = known.get(path) {
            let size = known.unwrap_or(ONE);
            return if is_inlined { size } else { ONE };
        }
        known.insert(path, None);
        let size = self.size(target, is_inlined);
        let known = if is_inlined { &mut self.inlined } else { &mut self.referenced };
        known.insert(path, Some(size));
        if is_inlined { size } else { ONE }
    }
}

/// Keywords that are not combinations.
const OWN: [&str; 23] = [
    "type",
    "properties",
    "patternProperties",
    "additionalProperties",
    "required",
    "minProperties",
    "maxProperties",
    "items",
    "prefixItems",
    "additionalItems",
    "minItems",
    "maxItems",
    "pattern",
    "format",
    "minLength",
    "maxLength",
    "minimum",
    "maximum",
    "exclusiveMinimum",
    "exclusiveMaximum",
    "multipleOf",
    "contentEncoding",
    "contentMediaType",
];

fn values(value: &Value) -> u64 {
    match value {
        Value::Array(items) => 1 + items.iter().map(values).sum::<u64>(),
        Value::Object(members) => 1 + members.values().map(values).sum::<u64>(),
        _ => 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn ordinary_schemas_pass() {
        let person = json!({
            "type": "object",
            "properties": {
                "name": {"type": "string"},
                "children": {"type": "array", "items": {"$ref": "#"}},
                "parent": {"anyOf": [{"$ref": "#"}, {"type": "null"}]},
            },
            "allOf": [{"required": ["name"]}],
        });
        check(&person, "x").unwrap();
        let long: Vec<String> = (0..10_000).map(|i| format!("value {i}")).collect();
        check(&json!({"enum": long}), "x").unwrap();
    }

    #[test]
    fn exponential_schemas_are_measured_not_tried() {
        let mut definitions = Map::new();
        for i in 0..60 {
            let next = json!({"$ref": format!("#/$defs/{}", i + 1)});
            let options = json!([{"type": "object", "properties": {"a": next, "b": next}}, next]);
            definitions.insert(i.to_string(), json!({"anyOf": options, "minProperties": 0}));
        }
        definitions.insert("60".into(), json!({"type": "string"}));
        let schema = json!({"$ref": "#/$defs/0", "$defs": definitions});
        let error = check(&schema, "x").unwrap_err().to_string();
        assert!(error.contains("the limit is"), "{error}");
    }

    #[test]
    fn patterns_that_meet_in_one_string_are_counted() {
        let pattern = json!({"type": "string", "pattern": "a.{9}b"});
        let apart = json!({"items": {"anyOf": vec![&pattern; 9]}});
        check(&apart, "x").unwrap();
        let together = json!({"items": {"allOf": vec![&pattern; 9]}});
        let error = check(&together, "x").unwrap_err().to_string();
        assert_eq!(error, "x: 9 patterns for one string; the limit is 4");
    }
}
