//! Looking at tokens, log probabilities, perplexity and model files.

use serde_json::Value;

use crate::run::{NANO, dir, ds4, file, model};

#[test]
fn tokens_are_listed_with_their_texts() {
    let dump =
        |model: &[&str]| ds4(&[&["--dump-tokens", "-p", "the<think>é"], model].concat()).ok();
    assert_eq!(dump(&[]), dump(&["-m", NANO]));
    let out = dump(&["-m", model()]);
    let mut lines = out.lines();
    let list: Vec<u32> = serde_json::from_str(lines.next().unwrap()).unwrap();
    assert_eq!((list[2], list.len()), (5, 5));
    let second = lines.nth(1).unwrap();
    assert_eq!(second, format!("{:>6}  he", list[1]));
    assert_eq!(lines.next().unwrap(), "     5  <think>");
}

#[test]
fn log_probabilities_have_the_shape_of_the_c_engines() {
    let path = dir().join("logprobs.json");
    let path = path.to_str().unwrap();
    let args = ["-p", "Hi", "-n", "5", "-c", "256", "--dump-logprobs", path];
    let run = ds4(&[&args[..], &["--logprobs-top-k", "3"]].concat());
    assert_eq!((run.code, &run.out[..]), (0, ""), "{}", run.err);
    let text = std::fs::read_to_string(path).unwrap();
    let head = "{\n  \"source\":\"ds4\",\n  \"prompt_tokens\":";
    assert!(text.starts_with(head), "{text}");
    assert!(text.contains(",\n  \"ctx\":256,\n  \"top_k\":3,\n  \"steps\":[\n    {\"step\":0,"));
    let json: Value = serde_json::from_str(&text).unwrap();
    let steps = json["steps"].as_array().unwrap();
    assert_eq!(steps.len(), 5);
    for (ix, step) in steps.iter().enumerate() {
        assert_eq!(step["step"], ix);
        let top = step["top_logprobs"].as_array().unwrap();
        assert_eq!(top.len(), 3);
        // Greedy: the selected token is the first.
        assert_eq!(step["selected"], top[0]["token"]);
        assert!(step["selected"]["bytes"].is_array() && step["selected"]["text"].is_string());
        let number = |entry: &Value, key: &str| entry[key].as_f64().unwrap();
        for pair in top.windows(2) {
            assert!(number(&pair[0], "logit") >= number(&pair[1], "logit"));
            let logits = number(&pair[0], "logit") - number(&pair[1], "logit");
            let logprobs = number(&pair[0], "logprob") - number(&pair[1], "logprob");
            assert!((logits - logprobs).abs() < 1e-5, "{step}");
        }
    }
    // The same answer as the greedy chat gives.
    let bytes = |step: &Value| -> Vec<u8> {
        let list = step["selected"]["bytes"].as_array().unwrap().iter();
        list.map(|byte| u8::try_from(byte.as_u64().unwrap()).unwrap()).collect()
    };
    let all: Vec<u8> = steps.iter().flat_map(bytes).collect();
    let said = ds4(&["-p", "Hi", "-n", "5", "-c", "256", "--temp", "0"]).ok();
    let said = said.strip_prefix("<think>").unwrap().trim_end().strip_suffix("</think>").unwrap();
    assert_eq!(said, String::from_utf8_lossy(&all));
}

#[test]
fn perplexity_is_printed_with_nine_decimals() {
    let path = file("text.txt", "the other hand is in the water and the sun is on the hill ");
    let out = ds4(&["--perplexity-file", &path, "-c", "100", "-m", model()]).ok();
    let fields: Vec<(&str, &str)> =
        out.trim().split(' ').map(|field| field.split_once('=').unwrap()).collect();
    let names: Vec<&str> = fields.iter().map(|(name, _)| *name).collect();
    assert_eq!(names, ["tokens", "scored", "nll", "avg_nll", "ppl"]);
    let value = |ix: usize| fields[ix].1.parse::<f64>().unwrap();
    assert!((value(0) - value(1) - 32.0).abs() < 1e-9, "the first 32 tokens are context: {out}");
    assert!((value(2) / value(1) - value(3)).abs() < 1e-6, "{out}");
    assert!((value(3).exp() / value(4) - 1.0).abs() < 1e-6, "{out}");
    assert!(fields[2..].iter().all(|(_, v)| v.split_once('.').unwrap().1.len() == 9), "{out}");
    let short = file("short.txt", "the");
    let line = ds4(&["--perplexity-file", &short]).fails(1);
    assert!(line.contains("at least 33 are needed"), "{line}");
    let line = ds4(&["--perplexity-file", &path, "-c", "33", "-m", model()]).fails(1);
    assert!(line.contains("do not fit into a context of 33"), "{line}");
}

#[test]
fn a_model_file_is_shown_for_people_and_programs() {
    let text = ds4(&["inspect", model(), "-c", "5000"]).ok();
    for want in [
        "general.architecture = deepseek4",
        "token_embd.weight",
        "IQ2_XXS",
        "unpublished shape",
        "MTP block      loaded",
        "routed experts",
        "    5000 tokens",
    ] {
        assert!(text.contains(want), "{want}:\n{text}");
    }
    let same = ds4(&["-m", model(), "--inspect", "-c", "5000"]).ok();
    assert_eq!(same, text);
    let json = ds4(&["inspect", model(), "--json"]).ok();
    let json: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["metadata"]["deepseek4.embedding_length"], 256);
    assert_eq!(json["metadata"]["tokenizer.ggml.tokens"]["len"], 288);
    assert_eq!(json["metadata"]["deepseek4.rope.scaling.type"], "yarn");
    assert_eq!(json["dims"]["n_layer"], 4);
    assert_eq!(json["has_mtp"], true);
    let sum = |list: &Value| -> u64 {
        list.as_array().unwrap().iter().map(|entry| entry["bytes"].as_u64().unwrap()).sum()
    };
    assert_eq!(sum(&json["tensors"]), sum(&json["types"]));
    assert_eq!(sum(&json["classes"]), sum(&json["tensors"]));
    let contexts = json["contexts"].as_array().unwrap();
    assert!(contexts.iter().any(|context| context["tokens"] == 32_768));
}

#[test]
fn steering_changes_answers_as_far_as_its_scale_says() {
    let dims = ds4_model::testing::quant_dims();
    let values = (0..dims.n_layer * dims.n_embd).map(|i| ((i * 37 % 101) as f32 - 50.0) / 400.0);
    let bytes: Vec<u8> = values.flat_map(f32::to_le_bytes).collect();
    let path = file("steering.f32", &bytes);
    let ids = file("steering.json", "[1, 40, 50, 60]");
    let logits = |name: &str, args: &[&str]| {
        let out = dir().join(name);
        let base = ["logits", "-m", model(), "--tokens", &ids, "--out", out.to_str().unwrap()];
        ds4(&[&base, args].concat()).ok();
        std::fs::read(out).unwrap()
    };
    let plain = logits("plain.npy", &[]);
    let steered = |scales: &[&str]| {
        logits("steered.npy", &[&["--dir-steering-file", &path], scales].concat())
    };
    assert_eq!(steered(&["--dir-steering-ffn", "0"]), plain);
    let ffn = steered(&[]);
    assert!(ffn != plain && ffn == steered(&["--dir-steering-ffn", "1"]));
    let attn = steered(&["--dir-steering-attn", "-2.5"]);
    assert!(attn != plain && attn != ffn);

    let short = file("short.f32", &bytes[4..]);
    let line = ds4(&["-p", "hi", "-m", model(), "--dir-steering-file", &short]).fails(1);
    assert!(line.contains("short.f32") && line.contains("bytes of steering"), "{line}");
}

#[test]
fn an_importance_matrix_of_the_prompts_is_written_and_can_be_used() {
    let bos = "<｜begin▁of▁sentence｜>";
    let text = format!("{bos}the other hand\n{bos}in the water, on the hill\n{bos}never run");
    let prompts = file("prompts.txt", text);
    let out = dir().join("importance.dat");
    let out = out.to_str().unwrap();
    let base = ["-m", model(), "--imatrix-dataset", &prompts, "--imatrix-out", out];
    let run = ds4(&[&base[..], &["--imatrix-max-prompts", "2"]].concat());
    assert_eq!(run.code, 0, "{}", run.err);
    assert!(run.err.contains("the importance of 2 prompts"), "{}", run.err);
    let matrix = ds4_quantize::Imatrix::open(out.as_ref()).unwrap();
    let dims = ds4_model::testing::quant_dims();
    assert_eq!(matrix.len(), 3 * dims.n_layer);
    for (name, width) in [("gate", dims.n_embd), ("up", dims.n_embd), ("down", dims.n_ff)] {
        let weights = matrix.weights(&format!("blk.0.ffn_{name}_exps.weight")).unwrap();
        assert_eq!(weights.len(), dims.n_expert * width);
        assert!(weights.iter().all(|w| *w > 0.0), "{name}");
    }
    let converted = dir().join("weighted.gguf");
    let converted = converted.to_str().unwrap();
    let args = ["quantize", model(), converted, "--recipe", "q2", "--imatrix", out];
    let run = ds4(&args);
    assert_eq!(run.code, 0, "{}", run.err);

    // Half of the tokens of a first prompt, and a data set without any.
    let run = ds4(&[&base[..], &["--imatrix-max-tokens", "3"]].concat());
    assert!(run.err.contains("the importance of 1 prompts, 3 tokens"), "{}", run.err);
    let nothing = file("nothing.txt", " \n");
    let args = ["-m", model(), "--imatrix-dataset", &nothing, "--imatrix-out", out];
    assert!(ds4(&args).fails(1).contains("nothing.txt: no prompt"));
    let args = ["-m", model(), "--imatrix-dataset", &prompts, "--imatrix-out", "/no/such/x"];
    assert!(ds4(&args).fails(1).contains("/no/such/x: No such file"));
}

#[cfg(unix)]
#[test]
fn an_endless_file_is_refused() {
    for args in [
        &["--prompt-file", "/dev/zero"][..],
        &["logits", "--tokens", "/dev/zero", "--out", "x.npy"],
    ] {
        assert!(ds4(args).fails(1).contains("/dev/zero: larger than 0.25 GiB"), "{args:?}");
    }
}
