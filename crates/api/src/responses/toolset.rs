//! Tools of all kinds as the functions that the model knows: namespaces flattened, free-text tools
//! with one parameter.

use std::collections::{BTreeMap, HashMap, HashSet};

use serde_json::{Map, Value, json};

use crate::fields::Fields;
use crate::{Alias, RequestError, Rules, limits, tools};

/// How the model is told to write patches (protocol data, as on the hosted API).
const APPLY_PATCH: &str = include_str!("apply_patch.txt");
const APPLY_PATCH_INPUT: &str = "The entire contents of the apply_patch command (the *** Begin \
                                 Patch ... *** End Patch envelope).";

/// The functions of a request, and what they are to its client.
#[derive(Default)]
pub(super) struct ToolSet {
    pub(super) functions: Vec<Map<String, Value>>,
    pub(super) aliases: BTreeMap<String, Alias>,
    /// Functions that a search of the client found: they may be called but are not declared.
    pub(super) found: Vec<Map<String, Value>>,
    /// The name of each namespaced function, declared or only called.
    flat_names: HashMap<(String, String), String>,
    /// Every name that is taken.
    taken: HashSet<String>,
}

impl ToolSet {
    /// Takes the declared tools. What only a server could run is left out: agents send mixed lists.
    pub(super) fn new(
        list: &[Value],
        rules: Rules,
        warnings: &mut Vec<String>,
    ) -> Result<Self, RequestError> {
        let mut set = Self::default();
        let name = |tool: &Value| match tool.get("type").and_then(Value::as_str) {
            Some("function") => tool.get("name").and_then(Value::as_str).map(str::to_owned),
            _ => None,
        };
        set.taken.extend(list.iter().filter_map(name));
        for (i, tool) in list.iter().enumerate() {
            let path = format!("tools[{i}]");
            set.declare(Fields::of(tool, &path)?, rules, warnings)?;
        }
        Ok(set)
    }

    fn declare(
        &mut self,
        tool: Fields<'_>,
        rules: Rules,
        warnings: &mut Vec<String>,
    ) -> Result<(), RequestError> {
        match tool.str("type")?.unwrap_or("function") {
            "function" => self.functions.push(function(tool, rules)?),
            "namespace" => {
                let functions = self.namespace(tool, rules, warnings)?;
                self.functions.extend(functions);
            }
            "custom" => self.custom(tool, rules)?,
            "tool_search" if rules == Rules::Lenient && is_run_by_client(tool)? => {
                let function = json!({
                    "name": "tool_search",
                    "description": tool.str("description")?.unwrap_or_default(),
                    "parameters": tool.get("parameters").cloned().unwrap_or_else(|| json!({})),
                });
                self.functions.extend(function.as_object().cloned());
                self.aliases.insert("tool_search".to_owned(), Alias::ToolSearch);
            }
            kind => {
                let path = tool.path();
                warnings
                    .push(format!("{path}: a tool of type {kind:?} is not supported; left out"));
            }
        }
        Ok(())
    }

    /// The functions of a namespace, under names of their own.
    fn namespace(
        &mut self,
        tool: Fields<'_>,
        rules: Rules,
        warnings: &mut Vec<String>,
    ) -> Result<Vec<Map<String, Value>>, RequestError> {
        tools::check_name(tool, rules)?;
        let namespace = tool.str("name")?.unwrap_or_default().to_owned();
        let mut functions = Vec::new();
        let mut names = HashSet::new();
        for (i, inner) in tool.array("tools")?.unwrap_or_default().iter().enumerate() {
            let path = format!("{}.tools[{i}]", tool.path());
            let inner = Fields::of(inner, &path)?;
            let kind = inner.str("type")?.unwrap_or("function");
            if kind == "custom" && rules == Rules::Hosted {
                return Err(RequestError::invalid(format!(
                    "Currently custom tools are not allowed inside a namespace. Found custom tool \
                     '{}' in {path}.",
                    inner.str("name")?.unwrap_or_default()
                )));
            } else if kind != "function" {
                warnings
                    .push(format!("{path}: a tool of type {kind:?} is not supported; left out"));
                continue;
            }
            let mut function = function(inner, rules)?;
            let name = inner.str("name")?.unwrap_or_default().to_owned();
            if !names.insert(name.clone()) {
                return Err(RequestError::invalid("Tool names within a namespace must be unique."));
            }
            let flat = self.flatten(&namespace, &name);
            function.insert("name".to_owned(), flat.clone().into());
            self.aliases.insert(flat, Alias::Namespaced { namespace: namespace.clone(), name });
            functions.push(function);
        }
        Ok(functions)
    }

    /// A new name for a function of a namespace.
    fn flatten(&mut self, namespace: &str, name: &str) -> String {
        let is_joined = namespace.ends_with('_') || name.starts_with('_');
        let base = format!("{namespace}{}{name}", if is_joined { "" } else { "__" });
        let mut flat = base.clone();
        for i in 1.. {
            if !self.taken.contains(&flat) {
                break;
            }
            flat = format!("{base}_{i}");
        }
        self.taken.insert(flat.clone());
        let key = (namespace.to_owned(), name.to_owned());
        self.flat_names.entry(key).or_insert_with(|| flat.clone());
        flat
    }

    /// The name under which the model knows a function that was called.
    pub(super) fn called_name(&mut self, namespace: Option<&str>, name: &str) -> String {
        let Some(namespace) = namespace else { return name.to_owned() };
        match self.flat_names.get(&(namespace.to_owned(), name.to_owned())) {
            Some(flat) => flat.clone(),
            None => self.flatten(namespace, name),
        }
    }

    /// The name under which the model knows a function that a choice names: a plain name may be
    /// that of a function inside a namespace.
    pub(super) fn known_name(&self, name: String) -> String {
        let is = |f: &Map<String, Value>| f.get("name").and_then(Value::as_str) == Some(&name);
        if self.functions.iter().any(is) {
            return name;
        }
        let inside = self.aliases.iter().find(
            |(_, alias)| matches!(alias, Alias::Namespaced { name: local, .. } if *local == name),
        );
        inside.map_or(name, |(flat, _)| flat.clone())
    }

    /// A tool that takes free text.
    fn custom(&mut self, tool: Fields<'_>, rules: Rules) -> Result<(), RequestError> {
        let name = tool.str("name")?.unwrap_or_default();
        let is_patch = name == "apply_patch";
        if rules == Rules::Hosted && !is_patch {
            return Err(RequestError::invalid(format!(
                "Unsupported custom tool: '{name}'. Only 'apply_patch' is supported."
            )));
        }
        tools::check_name(tool, rules)?;
        let format = tool.get("format");
        let (description, input) = if is_patch {
            (APPLY_PATCH.to_owned(), APPLY_PATCH_INPUT)
        } else {
            (describe(tool, format)?, "The whole input of the tool, as it is.")
        };
        let function = json!({
            "name": name,
            "description": description,
            "parameters": {
                "type": "object",
                "additionalProperties": false,
                "properties": {"input": {"type": "string", "description": input}},
                "required": ["input"],
            },
        });
        self.functions.extend(function.as_object().cloned());
        self.aliases.insert(name.to_owned(), Alias::Custom { format: format.cloned() });
        Ok(())
    }

    /// Takes the tools that a search found; what the model reads of them.
    pub(super) fn find(
        &mut self,
        list: &[Value],
        path: &str,
        warnings: &mut Vec<String>,
    ) -> Result<String, RequestError> {
        let mut found = Vec::new();
        for (i, tool) in list.iter().enumerate() {
            let path = format!("{path}[{i}]");
            let tool = Fields::of(tool, &path)?;
            match tool.str("type")?.unwrap_or("function") {
                "function" => found.push(function(tool, Rules::Lenient)?),
                "namespace" => found.extend(self.namespace(tool, Rules::Lenient, warnings)?),
                kind => warnings.push(format!("{path}: a found {kind:?} is left out")),
            }
        }
        let text = Value::from(found.clone()).to_string();
        self.found.extend(found);
        if self.found.len() > limits::TOOLS_MAX {
            return Err(RequestError::invalid(format!(
                "{path}: more than {} tools were found",
                limits::TOOLS_MAX
            )));
        }
        Ok(text)
    }
}

fn is_run_by_client(tool: Fields<'_>) -> Result<bool, RequestError> {
    Ok(tool.str("execution")? == Some("client"))
}

/// The description of a free-text tool, with the grammar of its text.
fn describe(tool: Fields<'_>, format: Option<&Value>) -> Result<String, RequestError> {
    let mut text = tool.str("description")?.unwrap_or_default().to_owned();
    let of = |key: &str| format.and_then(|format| format.get(key)).and_then(Value::as_str);
    if let Some(definition) = of("definition") {
        let syntax = of("syntax").unwrap_or("given");
        let separator = if text.is_empty() { "" } else { "\n\n" };
        let grammar = format!("The input must match this {syntax} grammar:\n{definition}");
        text = [&text, separator, &grammar].concat();
    }
    Ok(text)
}

/// A function as the model knows it.
fn function(tool: Fields<'_>, rules: Rules) -> Result<Map<String, Value>, RequestError> {
    // Some clients nest it as Chat Completions does.
    let path = format!("{}.function", tool.path());
    let tool = match tool.get("function") {
        Some(holder) if rules == Rules::Lenient => Fields::of(holder, &path)?,
        _ => tool,
    };
    tools::check_name(tool, rules)?;
    let mut function = Map::new();
    let name = tool.str("name")?.unwrap_or_default();
    function.insert("name".to_owned(), name.into());
    let description = tool.str("description")?.unwrap_or_default();
    function.insert("description".to_owned(), description.into());
    // A strict function without a schema is not one with an empty schema.
    if let Some(parameters) = tool.get("parameters") {
        function.insert("parameters".to_owned(), parameters.clone());
    } else if rules == Rules::Lenient && tool.bool("strict")? != Some(true) {
        function.insert("parameters".to_owned(), json!({}));
    }
    if tool.bool("strict")? == Some(true) {
        function.insert("strict".to_owned(), true.into());
    }
    Ok(function)
}
