//! JSON Schemas of requests: which demands can be enforced, and what compiling them would cost.
//!
//! The schema compiler is llguidance's. Before a schema reaches it, [`prepare`] refuses what is too
//! large (`cost.rs`) and finds each keyword that it would not enforce (`keywords.rs`), so that an
//! error or a warning can name the keyword and its place. [`Kinds`] and [`Texts`] answer what the
//! grammar of tool calls asks about a parameter: of which types it is, and which texts a string may
//! be when it is not written as JSON.

mod cost;
mod formats;
mod keywords;
mod kinds;
mod texts;

use std::cell::Cell;

use serde_json::{Map, Value, json};

use crate::form::{Rigour, Spacing};
use crate::{Error, limits};

pub(crate) use kinds::Kinds;
pub(crate) use texts::{Depth, Texts};

/// A schema that the compiler takes.
#[derive(Clone, Debug)]
pub(crate) struct Prepared {
    pub(crate) schema: Value,
    /// What is left to the model, one line each.
    pub(crate) warnings: Vec<String>,
}

/// Checks a schema that stands at `path`; with [`Rigour::Lenient`], without what is not enforced.
pub(crate) fn prepare(schema: &Value, path: &str, rigour: Rigour) -> Result<Prepared, Error> {
    check_size(schema, path)?;
    if schema == &Value::Bool(false) {
        return Err(Error::schema(path, "no answer satisfies this schema"));
    }
    let mut schema = schema.clone();
    if let Value::Object(object) = &mut schema {
        // The compiler's own options are not the client's to set.
        object.shift_remove(OPTIONS);
    }
    let mut warnings = Vec::new();
    keywords::settle(&mut schema, path, rigour, &mut warnings)?;
    cost::check(&schema, path)?;
    Ok(Prepared { schema, warnings })
}

/// Checks that a schema is not too large to be looked at.
pub(crate) fn check_size(schema: &Value, path: &str) -> Result<(), Error> {
    if !(schema.is_object() || schema.is_boolean()) {
        return Err(Error::schema(path, "a schema is an object or a boolean"));
    }
    let depth = limits::SCHEMA_DEPTH_MAX;
    if is_deeper(schema, depth) {
        return Err(Error::complex(path, format!("nested deeper than {depth}")));
    }
    let (n, max) = (schema.to_string().len(), limits::SCHEMA_BYTES_MAX);
    if n > max {
        return Err(Error::complex(path, format!("{n} bytes of schema; the limit is {max}")));
    }
    Ok(())
}

fn is_deeper(value: &Value, depth: usize) -> bool {
    let mut children: Box<dyn Iterator<Item = &Value>> = match value {
        Value::Array(items) => Box::new(items.iter()),
        Value::Object(members) => Box::new(members.values()),
        _ => return false,
    };
    depth == 0 || children.any(|child| is_deeper(child, depth - 1))
}

/// The member that tells the compiler its options.
const OPTIONS: &str = "x-guidance";

/// How the compiler is to read a prepared schema.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reading {
    pub(crate) rigour: Rigour,
    pub(crate) spacing: Spacing,
}

impl Reading {
    /// The schema with the compiler's options.
    pub(crate) fn of(self, schema: Value) -> Value {
        let mut object = match schema {
            Value::Object(object) => object,
            _ => Map::new(),
        };
        let is_lenient = self.rigour == Rigour::Lenient;
        let mut options = json!({"lenient": is_lenient, "coerce_one_of": is_lenient});
        match self.spacing {
            Spacing::Compact => options["whitespace_flexible"] = json!(false),
            Spacing::Flexible => {
                options["whitespace_pattern"] = json!(r" {1,4}|\r?\n[ \t]{0,64}");
            }
        }
        object.insert(OPTIONS.into(), options);
        Value::Object(object)
    }
}

/// What a reference within a document points to.
pub(crate) fn resolve<'a>(root: &'a Value, reference: &str) -> Option<&'a Value> {
    match reference {
        "#" => Some(root),
        _ => root.pointer(reference.strip_prefix('#')?),
    }
}

/// Bounds a walk through the graph that references make of a schema: there may be many more paths
/// through it than nodes, and endless ones.
#[derive(Clone, Copy)]
pub(crate) struct Walk<'a> {
    steps: &'a Cell<u32>,
    depth: u32,
}

impl<'a> Walk<'a> {
    /// A walk of at most as many steps as there are in the cell.
    pub(crate) fn new(steps: &'a Cell<u32>) -> Self {
        Self { steps, depth: 64 }
    }

    /// One step deeper; `None` when the walk must end.
    pub(crate) fn step(self) -> Option<Self> {
        self.steps.set(self.steps.get().checked_sub(1)?);
        Some(Self { depth: self.depth.checked_sub(1)?, ..self })
    }
}

/// Steps of a walk.
pub(crate) fn steps() -> Cell<u32> {
    Cell::new(10_000)
}
