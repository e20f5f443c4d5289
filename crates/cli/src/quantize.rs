//! `ds4 quantize`: a model file in another format, with the error of every class of tensors.

use std::collections::BTreeMap;
use std::num::NonZero;

use anyhow::{Result, bail};
use ds4_gguf::Gguf;
use ds4_quantize::{Class, Imatrix, Options, Override, Recipe, TensorReport, convert};

use crate::args::QuantizeArgs;
use crate::machine::gib;
use crate::options::Usage;
use crate::terminal;

/// Sums of a class: bytes, squared error, squared norm.
type Sums = BTreeMap<(Class, String), (u64, f64, f64)>;

/// Converts and reports on stderr.
pub(crate) fn run(args: &QuantizeArgs) -> Result<()> {
    let usage = |e: ds4_quantize::Error| Usage(e.to_string());
    let overrides: Result<Vec<Override>, _> =
        args.tensor_type.iter().map(|t| Override::parse(t)).collect();
    let options = Options {
        recipe: Recipe::from_name(&args.recipe).map_err(usage)?,
        overrides: overrides.map_err(usage)?,
        imatrix: args.imatrix.as_deref().map(Imatrix::open).transpose()?,
        threads: args.threads.and_then(|n| NonZero::new(usize::from(n))),
    };
    let source = Gguf::open(&args.input)?;
    if same_file(&args.input, &args.output) {
        bail!("{}: input and output are the same file", args.output.display());
    }
    let bar = terminal::progress_bar("quantizing", source.tensors().len(), "tensors");
    let mut sums = Sums::new();
    let report = convert(&source, &args.output, &options, &mut |t| {
        add(&mut sums, t);
        bar.inc(1);
    })?;
    bar.finish_and_clear();
    for ((class, ty), (bytes, error, norm)) in &sums {
        let rmse = if *norm > 0.0 { (error / norm).sqrt() } else { 0.0 };
        eprintln!("ds4: {:<22} {ty:<8} {:>11}  rel. RMSE {rmse:.5}", class.name(), gib(*bytes));
    }
    eprintln!("ds4: wrote {}, {}", args.output.display(), gib(report.file_bytes));
    Ok(())
}

fn add(sums: &mut Sums, t: &TensorReport) {
    let sum = sums.entry((t.class, t.to.name().to_owned())).or_default();
    sum.0 += t.bytes;
    sum.1 += t.error.0;
    sum.2 += t.error.1;
}

/// Whether both paths name one existing file.
fn same_file(a: &std::path::Path, b: &std::path::Path) -> bool {
    match (a.canonicalize(), b.canonicalize()) {
        (Ok(a), Ok(b)) => a == b,
        _ => false,
    }
}
