//! The report: a table of categories, perplexities, acceptance, and the samples unedited.

use std::io::{self, Write};

use serde_json::{Value, json};

use super::{Outcome, Results};

/// Least share of right answers that the shipped model must reach, in percent.
const TARGETS: [(&str, f64); 7] = [
    ("tools", 95.0),
    ("needle-1k", 95.0),
    ("needle-4k", 95.0),
    ("needle-16k", 80.0),
    ("arithmetic", 95.0),
    ("copy", 95.0),
    ("thinking", 100.0),
];
/// Least share of kept drafts.
const ACCEPTANCE_TARGET: f64 = 70.0;

/// Prints Markdown.
pub(super) fn print(r: &Results, out: &mut dyn Write) -> io::Result<()> {
    writeln!(out, "Model: {}", r.model)?;
    let backend = r.backend.to_uppercase();
    writeln!(out, "Greedy decoding on the {backend} backend, {:.0} s in all.\n", r.seconds)?;
    writeln!(out, "| category | right | of | % | target % |")?;
    writeln!(out, "|---|---|---|---|---|")?;
    for category in categories(r) {
        let of = || r.outcomes.iter().filter(|o| o.case.category == category);
        let judged = of().filter(|o| o.verdict.is_right.is_some()).count();
        if judged == 0 {
            continue;
        }
        let right = of().filter(|o| is_right(o)).count();
        let target = TARGETS.iter().find(|t| t.0 == category);
        let target = target.map_or(String::from("–"), |t| format!("{:.0}", t.1));
        writeln!(out, "| {category} | {right} | {judged} | {} | {target} |", pct(right, judged))?;
    }
    let obedient = r.outcomes.iter().filter(|o| o.verdict.is_obedient).count();
    let all = r.outcomes.len();
    writeln!(
        out,
        "| thinking obeyed, all cases | {obedient} | {all} | {} | 100 |",
        pct(obedient, all)
    )?;
    let rates = r.drafts.rates();
    if let Some(first) = rates.first() {
        let (kept, of) = (r.drafts.accepted[0], r.drafts.proposed[0]);
        let share = first * 100.0;
        writeln!(
            out,
            "| first MTP draft kept | {kept} | {of} | {share:.1} | {ACCEPTANCE_TARGET:.0} |"
        )?;
    }
    print_scores(r, out)?;
    print_samples(r, out)
}

/// A case counts as right when its answer is; in the category of obedience, when it obeyed.
fn is_right(o: &Outcome) -> bool {
    let by_form = o.case.category == "thinking";
    if by_form { o.verdict.is_obedient } else { o.verdict.is_right == Some(true) }
}

fn pct(n: usize, of: usize) -> String {
    format!("{:.1}", 100.0 * n as f64 / of.max(1) as f64)
}

fn categories(r: &Results) -> Vec<&str> {
    let mut names: Vec<&str> = r.outcomes.iter().map(|o| o.case.category.as_str()).collect();
    names.dedup();
    names
}

fn print_scores(r: &Results, out: &mut dyn Write) -> io::Result<()> {
    if r.scores.is_empty() {
        return Ok(());
    }
    writeln!(out, "\n| held-out text | tokens | nats per token | perplexity | bits per byte |")?;
    writeln!(out, "|---|---|---|---|---|")?;
    for s in &r.scores {
        let mean = s.nll / s.tokens as f64;
        let bits = s.nll / std::f64::consts::LN_2 / s.bytes as f64;
        let (name, tokens, ppl) = (s.name, s.tokens, mean.exp());
        writeln!(out, "| {name} | {tokens} | {mean:.4} | {ppl:.3} | {bits:.4} |")?;
    }
    Ok(())
}

fn print_samples(r: &Results, out: &mut dyn Write) -> io::Result<()> {
    let samples: Vec<&Outcome> =
        r.outcomes.iter().filter(|o| o.verdict.is_right.is_none()).collect();
    if samples.is_empty() {
        return Ok(());
    }
    writeln!(out, "\nSamples, unedited:")?;
    for o in samples {
        let last = o.case.messages.last().and_then(|m| m["content"].as_str()).unwrap_or_default();
        writeln!(out, "\n> **{}**", last.replace('\n', "\n> "))?;
        if !o.reply.reasoning.is_empty() {
            writeln!(out, ">\n> *({})*", o.reply.reasoning.trim().replace('\n', "\n> "))?;
        }
        writeln!(out, "\n{}", o.reply.content.trim())?;
    }
    Ok(())
}

/// Every case with its reply, for those who want to see what went wrong.
pub(super) fn details(r: &Results) -> Value {
    let case = |o: &Outcome| {
        json!({
            "id": o.case.id,
            "category": o.case.category,
            "prompt_tokens": o.prompt_tokens,
            "reply": o.reply.raw,
            "is_right": o.verdict.is_right,
            "is_obedient": o.verdict.is_obedient,
        })
    };
    json!({"model": r.model, "cases": r.outcomes.iter().map(case).collect::<Vec<_>>()})
}
