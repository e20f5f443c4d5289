//! Which texts a string parameter may be: tool calls write strings as they are, not as JSON, so the
//! schema compiler cannot be asked.

use llguidance::derivre::{Regex, RegexAst, RegexBuilder};
use serde_json::Value;

use super::{Walk, formats, resolve, steps};
use crate::lark;
use crate::pattern::{self, Meaning};

/// Alternatives that combinations of schemas may multiply to.
const ALTERNATIVES_MAX: usize = 64;

/// Work that finding out whether any text matches may take.
const FUEL: u64 = 20_000;

/// Texts: any that one of the alternatives allows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Texts(Vec<Alternative>);

/// Texts that are one of the literals, if there is a list of them, and match every part.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Alternative {
    literals: Option<Vec<String>>,
    /// Patterns of whole texts.
    parts: Vec<String>,
}

/// How much of a schema counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Depth {
    /// Types, and which texts an enumeration lists.
    Types,
    /// Whatever decides whether a string, a whole number, a truth value or null is valid: what is
    /// valid passes however it is written.
    Scalars,
    /// All: formats, which are no more than remarks to others, and what is inside objects.
    All,
}

impl Texts {
    /// The texts of the strings of a schema, or why they cannot be told.
    pub(crate) fn of(root: &Value, schema: &Value, depth: Depth) -> Result<Self, String> {
        let alternatives = Reader { root, depth }.read(schema, Walk::new(&steps()))?;
        let mut texts = Vec::new();
        for alternative in alternatives {
            texts.extend(alternative.settle()?);
        }
        Ok(Self(texts))
    }

    /// All texts.
    pub(crate) fn any() -> Self {
        Self(vec![Alternative::default()])
    }

    /// Whether there is none.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The texts as the body of a terminal.
    pub(crate) fn to_lark(&self) -> String {
        let alternatives: Vec<String> = self.0.iter().map(Alternative::to_lark).collect();
        alternatives.join(" | ")
    }
}

impl Alternative {
    fn and(&self, other: &Self) -> Option<Self> {
        let literals = match (&self.literals, &other.literals) {
            (Some(a), Some(b)) => Some(a.iter().filter(|text| b.contains(text)).cloned().collect()),
            (a, b) => a.clone().or_else(|| b.clone()),
        };
        let parts = self.parts.iter().chain(&other.parts).cloned().collect();
        let is_empty = literals.as_ref().is_some_and(Vec::is_empty);
        (!is_empty).then_some(Self { literals, parts })
    }

    /// The alternative without literals that do not match its patterns; nothing, if no text does.
    fn settle(self) -> Result<Option<Self>, String> {
        if self.parts.is_empty() {
            return Ok(Some(self));
        }
        let mut regex = self.regex()?;
        let Some(mut literals) = self.literals else {
            return Ok((!regex.always_empty()).then_some(self));
        };
        literals.retain(|text| regex.is_match(text));
        let rest = Self { literals: Some(literals), parts: Vec::new() };
        Ok(rest.literals.as_ref().is_some_and(|texts| !texts.is_empty()).then_some(rest))
    }

    /// All its patterns as one.
    fn regex(&self) -> Result<Regex, String> {
        let parts = self.parts.iter().cloned().map(RegexAst::Regex).collect();
        let mut builder = RegexBuilder::new();
        let all = builder.mk(&RegexAst::And(parts)).map_err(|e| e.to_string())?;
        let regex = builder.to_regex_limited(all, FUEL);
        regex.map_err(|_| "its patterns are too complex together".into())
    }

    fn to_lark(&self) -> String {
        let literals = self.literals.as_ref().map(|texts| {
            let texts: Vec<String> = texts.iter().map(|text| lark::literal(text)).collect();
            format!("({})", texts.join(" | "))
        });
        let parts = self.parts.iter().map(|part| lark::regex(part));
        let all: Vec<String> = literals.into_iter().chain(parts).collect();
        if all.is_empty() { lark::regex(lark::ANY) } else { format!("({})", all.join(" & ")) }
    }
}

struct Reader<'a> {
    root: &'a Value,
    depth: Depth,
}

impl Reader<'_> {
    fn read(&self, schema: &Value, walk: Walk<'_>) -> Result<Vec<Alternative>, String> {
        let walk = walk.step().ok_or("its references lead too far")?;
        let object = match schema {
            Value::Bool(false) => return Ok(Vec::new()),
            Value::Object(object) => object,
            _ => return Ok(vec![Alternative::default()]),
        };
        let mut texts = vec![Alternative::default()];
        for (key, value) in object {
            let list = value.as_array().map(Vec::as_slice).unwrap_or_default();
            match key.as_str() {
                "type" if !is_string(value) => texts.clear(),
                "const" => texts = both(&texts, &literals(std::slice::from_ref(value)))?,
                "enum" => texts = both(&texts, &literals(list))?,
                "anyOf" | "oneOf" => {
                    let mut any = Vec::new();
                    for schema in list {
                        any.extend(self.read(schema, walk)?);
                    }
                    any.dedup();
                    texts = both(&texts, &any)?;
                }
                "allOf" => {
                    for schema in list {
                        texts = both(&texts, &self.read(schema, walk)?)?;
                    }
                }
                "$ref" => {
                    let target = value.as_str().and_then(|path| resolve(self.root, path));
                    let target = target.ok_or_else(|| format!("\"$ref\": {value} is not there"))?;
                    texts = both(&texts, &self.read(target, walk)?)?;
                }
                _ => {}
            }
        }
        let demand = self.demand(schema)?;
        both(&texts, &[demand])
    }

    /// The keywords for strings.
    fn demand(&self, schema: &Value) -> Result<Alternative, String> {
        let mut parts = Vec::new();
        if self.depth >= Depth::Scalars {
            if let Some(text) = schema.get("pattern").and_then(Value::as_str) {
                parts.push(pattern::settle(text, Meaning::Somewhere)?);
            }
            let format = schema.get("format").and_then(Value::as_str);
            let format = format.filter(|_| self.depth == Depth::All);
            if let Some(text) = format.and_then(formats::pattern) {
                parts.push(pattern::settle(text, Meaning::Whole)?);
            }
            let number = |key| schema.get(key).and_then(Value::as_u64);
            match (number("minLength").unwrap_or(0), number("maxLength")) {
                (0, None) => {}
                (min, max) => parts.push(lark::length(min, max)?),
            }
        }
        Ok(Alternative { literals: None, parts })
    }
}

fn is_string(types: &Value) -> bool {
    match types {
        Value::Array(types) => types.iter().any(|name| name == "string"),
        name => name == "string",
    }
}

fn literals(values: &[Value]) -> Vec<Alternative> {
    let texts: Vec<String> = values.iter().filter_map(Value::as_str).map(str::to_owned).collect();
    if texts.is_empty() {
        return Vec::new();
    }
    vec![Alternative { literals: Some(texts), parts: Vec::new() }]
}

fn both(a: &[Alternative], b: &[Alternative]) -> Result<Vec<Alternative>, String> {
    if a.len() * b.len() > ALTERNATIVES_MAX {
        return Err(format!("more than {ALTERNATIVES_MAX} combinations of strings"));
    }
    Ok(a.iter().flat_map(|a| b.iter().filter_map(|b| a.and(b))).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn check(schema: &Value, expected: &str) {
        let root =
            json!({"$defs": {"s": {"enum": ["x", "y", 1]}, "loop": {"$ref": "#/$defs/loop"}}});
        let found = match Texts::of(&root, schema, Depth::All) {
            Ok(texts) => texts.to_lark(),
            Err(error) => error,
        };
        assert_eq!(found, expected, "{schema}");
    }

    #[test]
    fn strings_are_told_from_schemas() {
        check(&json!({}), "/(?s:.*)/");
        check(&json!({"type": ["null", "string"]}), "/(?s:.*)/");
        check(&json!({"type": "integer"}), "");
        check(&json!({"enum": ["a", 2, "b\""]}), r#"(("a" | "b\""))"#);
        check(&json!({"$ref": "#/$defs/s", "enum": ["y", "z"]}), r#"(("y"))"#);
        check(&json!({"anyOf": [{"const": "a"}, {"type": "null"}]}), r#"(("a"))"#);
        check(&json!({"pattern": "^a$", "maxLength": 3}), "(/(?:^a$)/ & /(?s:.{0,3})/)");
        check(&json!({"pattern": "^a+$", "enum": ["a", "b", "aa"], "maxLength": 1}), r#"(("a"))"#);
        check(&json!({"pattern": "^a+$", "enum": ["b"]}), "");
        check(&json!({"pattern": "^a{3}$", "maxLength": 2}), "");
        check(&json!({"$ref": "#/$defs/loop"}), "its references lead too far");
        check(&json!({"$ref": "#/nowhere"}), "\"$ref\": \"#/nowhere\" is not there");
        let loose = Texts::of(&json!({}), &json!({"pattern": "^a$"}), Depth::Types);
        assert_eq!(loose, Ok(Texts::any()));
    }
}
