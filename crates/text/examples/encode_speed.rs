//! Measures how long a model file's tokenizer takes to build and how fast it encodes:
//! `cargo run --release -p ds4-text --example encode_speed -- MODEL.gguf TEXT`.

use std::error::Error;
use std::time::Instant;

use ds4_gguf::Gguf;
use ds4_text::Tokenizer;

#[expect(clippy::print_stdout, reason = "an example's only output")]
fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().collect();
    let [_, model, text] = args.as_slice() else {
        return Err("usage: encode_speed MODEL.gguf TEXT".into());
    };
    let text = std::fs::read_to_string(text)?;
    for _ in 0..3 {
        let start = Instant::now();
        let file = Gguf::open(model.as_ref())?;
        let opened = start.elapsed();
        let tokenizer = Tokenizer::from_gguf(&file)?;
        let built = start.elapsed();
        let start = Instant::now();
        let n = tokenizer.encode_plain(&text).len();
        let rate = text.len() as f64 / start.elapsed().as_secs_f64() / 1e6;
        println!("open {opened:?}, built after {built:?}; {n} tokens at {rate:.2} MB/s");
    }
    Ok(())
}
