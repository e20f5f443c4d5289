//! The grammar of tool calls (§B.8): which functions, which parameters, how each value is written.
//!
//! ```text
//! block  := "tool_calls>" (OPEN call)+ CLOSE "tool_calls>"
//! call   := "invoke name=\"" one of: NAME "\">" parameters
//! parameters := CLOSE "invoke>"                                 when all required ones are there
//!             | OPEN "parameter name=\"" one that is not there yet, parameters
//! value  := "true\">" TEXT "</" "parameter>" | "false\">" JSON "</" "parameter>"
//! ```
//!
//! `OPEN` and `CLOSE` are `\n<` and `\n</` with the control token that marks a tag behind them. The
//! set of parameters that are there is a rule's argument, one bit each. Where a tag could follow
//! that leads nowhere, its condition says so: a mask must never end up empty.

use std::collections::HashMap;

use serde_json::{Map, Value, json};

use crate::form::{Functions, Rigour};
use crate::lark::{self, Lark, literal};
use crate::parameters::{Parameter, Parameters};
use crate::schema::{self, Depth, Kinds, Prepared, Reading, Texts};
use crate::{Error, limits};

/// Which tool calls a grammar allows.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Style {
    /// Id of the token that marks tags.
    pub(crate) dsml: u32,
    /// Whether the model opened the block by itself: then tags may stand apart, and values that are
    /// valid must pass however they are written.
    pub(crate) is_guard: bool,
    /// Whether several calls may be made.
    pub(crate) parallel: bool,
    pub(crate) reading: Reading,
}

/// A grammar that the main one names.
#[derive(Clone, Debug)]
pub(crate) enum Part {
    Lark(String),
    Json(Value),
}

/// A writer of the grammar.
pub(crate) struct Calls {
    style: Style,
    lark: Lark,
    parts: Vec<(String, Part)>,
    /// Terminals of texts, by their bodies.
    texts: HashMap<String, String>,
    warnings: Vec<String>,
    /// How much of their schemas counts, for functions that are not strict.
    depth: Depth,
}

/// What was written: the rules `block` and `inside`, the grammars they name, and warnings.
pub(crate) struct Written {
    pub(crate) lark: Lark,
    pub(crate) parts: Vec<(String, Part)>,
    pub(crate) warnings: Vec<String>,
}

/// Writes the grammar of a block of calls, in which this much of each schema counts.
pub(crate) fn write(functions: &Functions, style: Style, depth: Depth) -> Result<Written, Error> {
    let n = functions.declared.len();
    if n == 0 {
        return Err(Error::schema("tools", "there is no function that may be called"));
    }
    if n > limits::FUNCTIONS_MAX {
        let max = limits::FUNCTIONS_MAX;
        return Err(Error::complex("tools", format!("{n} functions; the limit is {max}")));
    }
    let mut calls = Calls {
        style,
        lark: Lark::default(),
        parts: Vec::new(),
        texts: HashMap::new(),
        warnings: Vec::new(),
        depth,
    };
    calls.tags();
    let mut names = Vec::with_capacity(n);
    for (i, function) in functions.declared.iter().enumerate() {
        let name = function.get("name").and_then(Value::as_str).unwrap_or_default();
        let start = calls.function(i, name, function)?;
        names.push(format!("{} {start}", literal(&format!("{name}\">"))));
    }
    let Calls { mut lark, parts, warnings, .. } = calls;
    lark.define("call", format!("{} ({})", literal("invoke name=\""), names.join(" | ")));
    let more = if style.parallel { "(open call)*" } else { "" };
    lark.define("inside", format!("call {more} close \"tool_calls>\""));
    // An empty block is no call, but valid: what the model has opened, it may close.
    let empty = if style.is_guard { "| \"tool_calls>\" close \"tool_calls>\"" } else { "" };
    lark.define("block", format!("\"tool_calls>\" open inside {empty}"));
    Ok(Written { lark, parts, warnings })
}

impl Calls {
    fn tags(&mut self) {
        let mark = lark::token(self.style.dsml);
        let (open, close) = if self.style.is_guard {
            let space = lark::tag_space();
            let open = self.lark.terminal(format!("{space} \"<\""));
            (open, self.lark.terminal(format!("{space} \"</\"")))
        } else {
            (literal("\n<"), literal("\n</"))
        };
        self.lark.define("mark", mark);
        self.lark.define("open", format!("{open} mark"));
        self.lark.define("close", format!("{close} mark"));
        self.lark.define("end", "mark \"parameter>\"");
    }

    /// Writes the rules of one function's parameters; returns how they begin.
    fn function(
        &mut self,
        i: usize,
        name: &str,
        function: &Map<String, Value>,
    ) -> Result<String, Error> {
        let path = format!("tools: function {name:?}");
        let is_strict = function.get("strict") == Some(&Value::Bool(true));
        let rigour = if is_strict { Rigour::Strict } else { Rigour::Lenient };
        let none = json!({"type": "object", "properties": {}, "additionalProperties": false});
        let schema = function.get("parameters").filter(|schema| !schema.is_null());
        let depth = if is_strict { Depth::All } else { self.depth };
        let root = if depth == Depth::Types {
            schema::check_size(schema.unwrap_or(&none), &path)?;
            schema.unwrap_or(&none).clone()
        } else {
            let Prepared { schema, warnings } =
                schema::prepare(schema.unwrap_or(&none), &path, rigour)?;
            if !self.style.is_guard {
                self.warnings.extend(warnings);
            }
            schema
        };
        let parameters = Parameters::of(&root);
        if is_strict && !parameters.is_whole {
            let message = "combinations at the top of a strict function's schema";
            return Err(Error::schema(&path, message));
        }
        let place = Place { root: &root, path: &path, depth, rigour };
        let mut items = Vec::new();
        for parameter in &parameters.known {
            let values = self.values(parameter.schema, &place)?;
            if values.is_empty() && parameter.is_required {
                let message = format!("the parameter {:?} can have no value", parameter.key);
                return Err(Error::schema(&path, message));
            }
            if !values.is_empty() {
                items.push((parameter, item(&parameter.key, &values)));
            }
        }
        let extra = match parameters.extra {
            None => None,
            Some(schema) => {
                let values = self.values(schema, &place)?;
                (!values.is_empty()).then(|| self.extra_item(&parameters.known, &values))
            }
        };
        Ok(self.parameter_rules(&format!("f{i}"), &items, extra))
    }

    /// How a value may be written: what follows `string="`.
    fn values(&mut self, schema: &Value, place: &Place<'_>) -> Result<Vec<String>, Error> {
        let kinds = Kinds::of(place.root, schema);
        let mut ways = Vec::new();
        if kinds.has(Kinds::STRING) {
            let texts = match Texts::of(place.root, schema, place.depth) {
                Ok(texts) => texts,
                Err(message) if place.rigour == Rigour::Strict => {
                    return Err(Error::schema(place.path, message));
                }
                Err(message) => {
                    if !self.style.is_guard {
                        self.warnings.push(format!("{}: {message}; not enforced", place.path));
                    }
                    Texts::any()
                }
            };
            if !texts.is_empty() {
                let text = self.text(&texts);
                ways.push(format!("{} {text} end", literal("true\">")));
            }
        }
        // Where the schema names no type, a string may as well be written as JSON.
        let rest = if kinds == Kinds::ALL { kinds } else { kinds.without(Kinds::STRING) };
        if rest != Kinds::NONE {
            // Objects in JSON must have their keys in the schema's order, which is too much to ask
            // of what need only be valid; numbers may be written in ways that the compiler lacks.
            let is_simple = !rest.has(Kinds::OBJECT.or(Kinds::ARRAY).or(Kinds::FRACTION));
            let part = match place.depth {
                Depth::Types => any_json(rest),
                Depth::Scalars if !is_simple => any_json(rest),
                Depth::Scalars | Depth::All => {
                    let narrower = (rest != kinds).then_some(rest);
                    let schema = with_definitions(place.root, schema, narrower);
                    let reading = Reading { rigour: place.rigour, ..self.style.reading };
                    Part::Json(reading.of(schema))
                }
            };
            let name = self.part(part);
            ways.push(format!("{} @{name} \"</\" end", literal("false\">")));
        }
        Ok(ways)
    }

    /// A terminal of texts, up to where the closing tag begins.
    fn text(&mut self, texts: &Texts) -> String {
        let body = format!("({}) \"</\"", texts.to_lark());
        if let Some(name) = self.texts.get(&body) {
            return name.clone();
        }
        let name = self.lark.terminal(&body);
        self.texts.insert(body, name.clone());
        name
    }

    /// Adds a grammar, if there is none like it, and returns its name.
    fn part(&mut self, part: Part) -> String {
        let is_same = |(_, known): &&(String, Part)| match (known, &part) {
            (Part::Lark(a), Part::Lark(b)) => a == b,
            (Part::Json(a), Part::Json(b)) => a == b,
            _ => false,
        };
        if let Some((name, _)) = self.parts.iter().find(is_same) {
            return name.clone();
        }
        let name = format!("j{}", self.parts.len());
        self.parts.push((name.clone(), part));
        name
    }

    /// A parameter with any key but the known ones.
    fn extra_item(&mut self, known: &[Parameter<'_>], values: &[String]) -> String {
        let mut key = r#"/[^"\x00-\x1f]{1,128}/"#.to_owned();
        if !known.is_empty() {
            let known: Vec<String> = known.iter().map(|p| literal(&p.key)).collect();
            key = format!("{key} & ~({})", known.join(" | "));
        }
        let key = self.lark.terminal(key);
        format!("{key} {} ({})", literal("\" string=\""), values.join(" | "))
    }

    /// The rules of a function: returns the name of the first, with its argument.
    fn parameter_rules(
        &mut self,
        name: &str,
        items: &[(&Parameter<'_>, String)],
        extra: Option<String>,
    ) -> String {
        let n = items.len();
        if n == 0 && extra.is_none() {
            // One profile writes an empty line here.
            let close = if self.style.is_guard { "close" } else { "\"\\n\"? close" };
            self.lark.define(name, format!("{close} \"invoke>\""));
            return name.to_owned();
        }
        if n > limits::FREE_ORDER_MAX || n == 0 {
            return self.ordered_rules(name, items, extra);
        }
        // Required parameters have the first bits.
        let (required, optional): (Vec<_>, Vec<_>) = items.iter().partition(|(p, _)| p.is_required);
        let r = required.len();
        let mut ends = Vec::new();
        let may_end = if r > 0 { format!("%if is_ones([0:{r}])") } else { String::new() };
        ends.push(format!("close \"invoke>\" {may_end}"));
        if r == 0 && !self.style.is_guard {
            ends.push(format!("\"\\n\" close \"invoke>\" %if is_zeros([0:{n}])"));
        }
        let may_go_on = if extra.is_some() { "" } else { &format!("%if not(is_ones([0:{n}]))") };
        ends.push(format!("open \"parameter name=\\\"\" {name}p::_ {may_go_on}"));
        self.lark.define(format!("{name}::_"), ends.join(" | "));
        let mut next = Vec::with_capacity(n + 1);
        for (bit, (_, item)) in required.into_iter().chain(optional).enumerate() {
            next.push(format!("{item} {name}::set_bit({bit}) %if bit_clear({bit})"));
        }
        next.extend(extra.map(|item| format!("{item} {name}::_")));
        self.lark.define(format!("{name}p::_"), next.join(" | "));
        format!("{name}::0x0")
    }

    /// The rules of a function with so many parameters that they must keep their order.
    fn ordered_rules(
        &mut self,
        name: &str,
        items: &[(&Parameter<'_>, String)],
        extra: Option<String>,
    ) -> String {
        let one = |item: &str| format!("(open \"parameter name=\\\"\" {item})");
        let mut all: Vec<String> = items
            .iter()
            .map(|(p, item)| one(item) + if p.is_required { "" } else { "?" })
            .collect();
        all.extend(extra.map(|item| one(&item) + "*"));
        let body = all.join(" ");
        self.lark.define(name, format!("{body} close \"invoke>\""));
        name.to_owned()
    }
}

/// A parameter from its key on.
fn item(key: &str, values: &[String]) -> String {
    let key = literal(&format!("{key}\" string=\""));
    format!("{key} ({})", values.join(" | "))
}

/// Where a parameter's schema stands.
struct Place<'a> {
    root: &'a Value,
    path: &'a str,
    depth: Depth,
    rigour: Rigour,
}

/// Any JSON of these types.
fn any_json(kinds: Kinds) -> Part {
    let rules = [
        (Kinds::OBJECT, "object"),
        (Kinds::ARRAY, "array"),
        (Kinds::FRACTION, "NUMBER"),
        (Kinds::BOOLEAN, "BOOLEAN"),
        (Kinds::NULL, "NULL"),
        (Kinds::STRING, "STRING"),
    ];
    let mut starts: Vec<&str> =
        rules.iter().filter(|(kind, _)| kinds.has(*kind)).map(|(_, rule)| *rule).collect();
    if kinds.has(Kinds::INTEGER) && !kinds.has(Kinds::FRACTION) {
        starts.push("INTEGER");
    }
    Part::Lark(lark::any_json(&starts))
}

/// A parameter's schema as a document of its own, restricted to some types.
fn with_definitions(root: &Value, schema: &Value, kinds: Option<Kinds>) -> Value {
    let mut document = match (schema, kinds) {
        (schema, Some(kinds)) => {
            Map::from_iter([("allOf".into(), json!([schema, {"type": kinds.names()}]))])
        }
        (Value::Object(object), None) => object.clone(),
        (_, None) => Map::new(),
    };
    if schema.to_string().contains("\"$ref\"") {
        for key in ["$defs", "definitions"] {
            if let Some(definitions) = root.get(key) {
                document.insert(key.into(), definitions.clone());
            }
        }
    }
    Value::Object(document)
}
