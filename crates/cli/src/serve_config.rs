//! The file of `serve --config`: flags under their long names. What was typed or stands in the
//! environment wins, so only the rest of the file is added to the command line.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use clap::parser::ValueSource;
use clap::{Arg, ArgMatches, Command, CommandFactory};
use toml::{Table, Value};

use crate::args::Cli;
use crate::options::{Resolved, Usage};

/// The command line with what a config file adds to it. One that does not parse is returned as it
/// is, for the parser to say what is wrong.
pub(crate) fn with_config(argv: Vec<OsString>) -> Resolved<Vec<OsString>> {
    let command = Cli::command();
    let Ok(matches) = command.clone().try_get_matches_from(&argv) else { return Ok(argv) };
    let Some(typed) = matches.subcommand_matches("serve") else { return Ok(argv) };
    let Some(file) = typed.get_one::<PathBuf>("config") else { return Ok(argv) };
    let serve = command.find_subcommand("serve").expect("it was matched");
    let table = read(file)?;
    let mut argv = argv;
    for (key, value) in &table {
        let named = |what: String| Usage(format!("{}: {key}: {what}", file.display()));
        let arg = find(serve, key).ok_or_else(|| named("there is no such flag".to_owned()))?;
        if !is_given(typed, arg) {
            argv.extend(flags(arg, key, value).map_err(named)?);
        }
    }
    Ok(argv)
}

fn read(file: &Path) -> Resolved<Table> {
    let name = file.display();
    let text = fs::read_to_string(file).map_err(|e| Usage(format!("cannot read {name}: {e}")))?;
    text.parse().map_err(|error: toml::de::Error| {
        let line = error.span().map_or(1, |span| 1 + text[..span.start].matches('\n').count());
        Usage(format!("{name}, line {line}: {}", error.message()))
    })
}

fn find<'a>(serve: &'a Command, key: &str) -> Option<&'a Arg> {
    let is_it = |arg: &&Arg| arg.get_long() == Some(key) && !matches!(key, "config" | "chdir");
    serve.get_arguments().find(is_it)
}

fn is_given(typed: &ArgMatches, arg: &Arg) -> bool {
    let source = typed.value_source(arg.get_id().as_str());
    matches!(source, Some(ValueSource::CommandLine | ValueSource::EnvVariable))
}

/// A key of the file as flags.
fn flags(arg: &Arg, key: &str, value: &Value) -> Result<Vec<OsString>, String> {
    let takes_value = arg.get_action().takes_values();
    let one = |value: &Value| {
        let text = match value {
            Value::String(text) => text.clone(),
            Value::Integer(n) => n.to_string(),
            Value::Float(x) => x.to_string(),
            _ => return Err("must be a string or a number".to_owned()),
        };
        Ok(OsString::from(format!("--{key}={text}")))
    };
    match value {
        Value::Boolean(is_on) if !takes_value => {
            Ok(is_on.then(|| OsString::from(format!("--{key}"))).into_iter().collect())
        }
        _ if !takes_value => Err("must be true or false".to_owned()),
        Value::Array(list) if matches!(arg.get_action(), clap::ArgAction::Append) => {
            list.iter().map(one).collect()
        }
        value => Ok(vec![one(value)?]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn added(config: &str, typed: &[&str]) -> Result<Vec<String>, String> {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("ds4.toml");
        fs::write(&file, config).unwrap();
        let typed = typed.iter().map(OsString::from);
        let config = [OsString::from("--config"), file.into()];
        let argv: Vec<OsString> =
            ["ds4", "serve"].map(OsString::from).into_iter().chain(config).chain(typed).collect();
        let n = argv.len();
        let all = with_config(argv).map_err(|e| e.to_string())?;
        Ok(all[n..].iter().map(|arg| arg.to_str().unwrap().to_owned()).collect())
    }

    #[test]
    fn only_what_was_not_typed_is_added() {
        let config = "port = 9000\nhost = \"::\"\ncors = true\nlog-json = false\n\
            api-key = [\"a\", \"b\"]\nmodel-rule = \"x=nothink\"";
        let all = added(config, &[]).unwrap();
        // In order of their names.
        let expected = ["--api-key=a", "--api-key=b", "--cors", "--host=::"];
        assert_eq!(all[..4], expected);
        assert_eq!(all[4..], ["--model-rule=x=nothink", "--port=9000"]);
        let rest = added(config, &["--port", "1", "--api-key", "c", "--cors"]).unwrap();
        assert_eq!(rest, ["--host=::", "--model-rule=x=nothink"]);
        assert_eq!(added("ram-gb = 4.5", &[]).unwrap(), ["--ram-gb=4.5"]);
    }

    #[test]
    fn mistakes_name_their_key() {
        for (config, wanted) in [
            ("prot = 1", "prot: there is no such flag"),
            ("config = \"x\"", "config: there is no such flag"),
            ("cors = 1", "cors: must be true or false"),
            ("port = [1, 2]", "port: must be a string or a number"),
            ("port = true", "port: must be a string or a number"),
            ("a = 1\nport = ", "line 2"),
        ] {
            let error = added(config, &[]).unwrap_err();
            assert!(error.contains(wanted), "{config}: {error}");
        }
        assert!(
            with_config(["ds4", "serve", "--config", "/no"].map(OsString::from).to_vec())
                .unwrap_err()
                .to_string()
                .contains("cannot read /no")
        );
    }
}
