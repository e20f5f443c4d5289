//! Measures the cost of constraints over a vocabulary:
//! `cargo run --release -p ds4-constrain --example measure -- MODEL.gguf|vocab.txt.gz`.
//!
//! The second form is the packed vocabulary of the tests (`testdata/protocol`).

use std::error::Error;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ds4_constrain::{Answer, Begin, Calls, Form, Functions, Grammars, Rigour, Spacing};
use ds4_gguf::Gguf;
use ds4_text::{Tokenizer, Vocab};
use serde_json::{Map, Value, json};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

#[expect(clippy::print_stdout, reason = "an example's only output")]
fn main() -> Result<()> {
    let path = std::env::args().nth(1).ok_or("usage: measure MODEL.gguf|vocab.txt.gz")?;
    let tokenizer = Arc::new(tokenizer(Path::new(&path))?);
    let before = resident()?;
    let start = Instant::now();
    let grammars = Grammars::new(Arc::clone(&tokenizer));
    grammars.prepare();
    let (took, n) = (start.elapsed(), tokenizer.vocab().len());
    println!("{n} tokens: trie built in {took:.1?}, {:.1} MB", resident()? - before);

    println!("| form | compile | clone | n | mask median | p99 | max | accept median |");
    println!("|---|---|---|---|---|---|---|---|");
    for (name, form, text) in cases() {
        let before = resident()?;
        let start = Instant::now();
        let grammar = grammars.compile(&form)?;
        let compiled = start.elapsed();
        let mut constraint = grammar.begin(Begin::default())?;
        let (mut masks, mut accepts) = (Vec::new(), Vec::new());
        let mut logits = vec![0.0; n];
        for id in tokenizer.encode_with_control(&text) {
            logits.fill(0.0);
            let start = Instant::now();
            constraint.mask(&mut logits)?;
            let masked = start.elapsed();
            constraint.accept(id)?;
            if constraint.is_active() {
                masks.push(masked);
                accepts.push(start.elapsed().saturating_sub(masked));
            }
        }
        let start = Instant::now();
        let clone = constraint.clone();
        let cloned = start.elapsed();
        drop(clone);
        let [median, p99, max] = quantiles(&mut masks);
        let [accept, ..] = quantiles(&mut accepts);
        let (used, n) = (resident()? - before, masks.len());
        println!(
            "| {name} ({used:.1} MB) | {compiled:.1?} | {cloned:.1?} | {n} | {median:.1?} | \
             {p99:.1?} | {max:.1?} | {accept:.1?} |"
        );
    }
    Ok(())
}

fn quantiles(times: &mut [Duration]) -> [Duration; 3] {
    times.sort_unstable();
    let at = |percent: usize| times.get(times.len() * percent / 100).copied().unwrap_or_default();
    [at(50), at(99), times.last().copied().unwrap_or_default()]
}

/// Memory in use, in MB; 0 where the system does not say.
fn resident() -> Result<f64> {
    let Ok(status) = std::fs::read_to_string("/proc/self/status") else { return Ok(0.0) };
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).ok_or("no VmRSS")?;
    let kilobytes: f64 = line.trim().trim_end_matches(" kB").parse()?;
    Ok(kilobytes / 1e3)
}

fn form(answer: Answer, calls: Calls) -> Form {
    Form { answer, calls, rigour: Rigour::Lenient, spacing: Spacing::Flexible }
}

fn cases() -> Vec<(&'static str, Form, String)> {
    let record = json!({"name": "Ann \u{fc}ber", "tags": ["a", "bc"], "n": 17, "ok": true,
        "text": "A longer text, of several words; <b>with</b> marks \u{4e2d}\u{6587} \u{1f600}."});
    let records = json!({"items": vec![record; 8]});
    let pretty = serde_json::to_string_pretty(&records).unwrap_or_default();
    let schema = json!({
        "type": "object",
        "properties": {"items": {"type": "array", "items": {
            "type": "object",
            "properties": {
                "name": {"type": "string", "maxLength": 40},
                "tags": {"type": "array", "items": {"enum": ["a", "bc", "d"]}},
                "n": {"type": "integer", "minimum": 0, "maximum": 99},
                "ok": {"type": "boolean"},
                "text": {"type": "string"},
            },
            "required": ["name", "tags", "n", "ok", "text"],
            "additionalProperties": false,
        }}},
        "required": ["items"],
        "additionalProperties": false,
    });
    let functions = Functions { declared: functions(30), parallel: true, is_open: false };
    let (required, guarded) = (Calls::Required(functions.clone()), Calls::Allowed(functions));
    let line = "    if x < 10 && y > 0 { return \"<a href='1'>\"; } // \u{e9}\n";
    let code = line.repeat(30);
    let calls = format!(
        "\n\n<｜DSML｜tool_calls>\n<｜DSML｜invoke name=\"tool_17\">\n\
         <｜DSML｜parameter name=\"path\" string=\"true\">src/main.rs</｜DSML｜parameter>\n\
         <｜DSML｜parameter name=\"content\" string=\"true\">{code}</｜DSML｜parameter>\n\
         <｜DSML｜parameter name=\"options\" string=\"false\">{{\"a\": [1, 2], \"b\": null}}\
         </｜DSML｜parameter>\n</｜DSML｜invoke>\n</｜DSML｜tool_calls>"
    );
    let pattern = Answer::Pattern(r"(\d{4}-\d{2}-\d{2}: [^\n]{1,80}\n)+".into());
    let diary = "2024-02-29: a day with some words in it\n".repeat(8);
    vec![
        ("any object", form(Answer::JsonObject, Calls::Free), pretty.clone()),
        ("schema", form(Answer::JsonSchema(schema), Calls::Free), pretty),
        ("30 functions, required", form(Answer::Free, required), calls.clone()),
        ("30 functions, guarded", form(Answer::Free, guarded), calls),
        ("pattern", form(pattern, Calls::Free), diary),
    ]
}

/// Functions such as agents declare.
fn functions(n: usize) -> Vec<Map<String, Value>> {
    let function = |i| {
        let function = json!({"name": format!("tool_{i}"), "parameters": {
            "type": "object",
            "properties": {
                "path": {"type": "string"},
                "content": {"type": "string"},
                "mode": {"enum": ["read", "write", "append"]},
                "limit": {"type": "integer", "minimum": 1, "maximum": 5000},
                "options": {"type": "object"},
                (format!("own_{i}")): {"type": ["string", "null"]},
            },
            "required": ["path"],
            "additionalProperties": false,
        }});
        function.as_object().cloned().unwrap_or_default()
    };
    (0..n).map(function).collect()
}

fn tokenizer(path: &Path) -> Result<Tokenizer> {
    if path.extension().is_none_or(|extension| extension != "gz") {
        return Ok(Tokenizer::from_gguf(&Gguf::open(path)?)?);
    }
    let mut text = String::new();
    flate2::read::GzDecoder::new(std::fs::File::open(path)?).read_to_string(&mut text)?;
    let (mut tokens, mut types, mut merges) = (Vec::new(), Vec::new(), Vec::new());
    for line in text.lines() {
        let fields: Vec<&str> = line.split('\t').collect();
        let [token, ty, left] = fields[..] else { return Err("three fields in a line".into()) };
        tokens.push(token.to_owned());
        types.push(ty.parse()?);
        if ty == "1"
            && let Ok(left) = left.parse()
        {
            let at = token.char_indices().nth(left).ok_or("a merge beyond its token")?.0;
            merges.push(format!("{} {}", &token[..at], &token[at..]));
        }
    }
    Ok(Tokenizer::new(Vocab::new(&tokens, &types, &merges)?)?)
}
