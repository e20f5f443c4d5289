//! Writes a test model as a GGUF file, for the numpy reference: `write_model quant SEED FILE` or
//! `write_model tiny 0 FILE`.

use std::error::Error;

use ds4_model::testing;

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [kind, seed, path] = args.as_slice() else {
        return Err("usage: write_model quant|tiny SEED FILE".into());
    };
    let gguf = match kind.as_str() {
        "quant" => testing::quant_gguf(seed.parse()?)?,
        "tiny" => testing::tiny_gguf()?,
        other => return Err(format!("unknown model {other}").into()),
    };
    std::fs::write(path, gguf.data())?;
    Ok(())
}
