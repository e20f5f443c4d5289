//! Checkpoints read, and damaged ones refused.
#![expect(clippy::unwrap_used, clippy::float_cmp, reason = "test helpers; exact values")]

mod common;

use std::fmt::Write as _;
use std::path::Path;

use common::{bytes, floats};
use ds4_gguf::dequantize_row;
use ds4_gguf::safetensors::{Checkpoint, Dtype};
use proptest::prelude::*;

/// A file of tensors: name, dtype, shape as JSON, bytes.
fn file(tensors: &[(&str, &str, &str, &[u8])]) -> Vec<u8> {
    let (mut json, mut data) = (String::from("{\"__metadata__\":{\"format\":\"pt\"}"), Vec::new());
    for (name, dtype, shape, bytes) in tensors {
        let (begin, end) = (data.len(), data.len() + bytes.len());
        write!(
            json,
            ",\"{name}\":{{\"dtype\":\"{dtype}\",\"shape\":{shape},\
             \"data_offsets\":[{begin},{end}]}}"
        )
        .unwrap();
        data.extend_from_slice(bytes);
    }
    json.push('}');
    with_header(&json, &data)
}

fn with_header(json: &str, data: &[u8]) -> Vec<u8> {
    let mut out = (json.len() as u64).to_le_bytes().to_vec();
    out.extend(json.as_bytes());
    out.extend(data);
    out
}

fn open(bytes: &[u8]) -> Result<Checkpoint, String> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.safetensors");
    std::fs::write(&path, bytes).unwrap();
    Checkpoint::open(&path).map_err(|e| e.to_string())
}

fn refused(bytes: &[u8]) -> String {
    let text = open(bytes).expect_err("damaged");
    assert!(text.contains("m.safetensors: ") && !text.contains('\n'), "{text}");
    text
}

#[test]
fn a_file_of_the_python_package_is_read() {
    let path =
        concat!(env!("CARGO_MANIFEST_DIR"), "/../../testdata/safetensors/python.safetensors");
    let c = Checkpoint::open(Path::new(path)).unwrap();
    assert_eq!(c.names().len(), 3);
    let ids = c.matrix("tid2eid").unwrap();
    assert_eq!((ids.data.dtype, ids.rows, ids.cols), (Dtype::I64, 2, 6));
    let mut x = [0.0; 6];
    ids.row(1, &mut x);
    assert_eq!(x, [66.0, 77.0, 88.0, 99.0, 110.0, 121.0]);
    let mut x = [0.0; 3];
    c.matrix("half").unwrap().row(1, &mut x);
    assert_eq!(x, [3.0, 4.0, 5.0]);
    let norm = c.matrix("norm.weight").unwrap();
    let mut x = [0.0; 5];
    norm.row(0, &mut x);
    assert_eq!((norm.rows, x), (1, [-1.0, -0.5, 0.0, 0.5, 1.0]));
    assert!(c.tensor("absent").is_none());
    assert!(c.matrix("absent").unwrap_err().to_string().contains("\"absent\" is missing"));
}

#[test]
fn matrices_of_the_official_formats_are_decoded() {
    let (codes, scales) = (bytes("fp8_e4m3_128.codes.u8"), bytes("fp8_e4m3_128.scale_e8m0.u8"));
    let (packed, fp4_scales) = (bytes("fp4_hf.packed.u8"), bytes("fp4_hf.scale_e8m0.u8"));
    let c = open(&file(&[
        ("a.weight", "F8_E4M3", "[384,256]", &codes),
        ("a.scale", "F8_E8M0", "[3,2]", &scales),
        ("e.weight", "I8", "[64,128]", &packed),
        ("e.scale", "F8_E8M0", "[64,8]", &fp4_scales),
    ]))
    .unwrap();
    let table = floats("e4m3_table.f32");
    let m = c.matrix("a.weight").unwrap();
    assert_eq!((m.rows, m.cols), (384, 256));
    let mut x = vec![0.0; 256];
    m.row(130, &mut x);
    // Row 130 lies in the second row of tiles, column 200 in its second tile.
    let exact = table[usize::from(codes[130 * 256 + 200])] * 2f32.powi(i32::from(scales[3]) - 127);
    assert_eq!(x[200], exact);
    let m = c.matrix("e.weight").unwrap();
    assert_eq!((m.rows, m.cols), (64, 256));
    m.row(5, &mut x);
    let mut blocks = vec![0; 8 * 17];
    let range = 5 * 128..6 * 128;
    let out = ds4_gguf::block::blocks_mut(&mut blocks);
    ds4_gguf::fp8::fp4_to_mxfp4(&packed[range], &fp4_scales[40..48], out);
    let mut y = vec![0.0; 256];
    dequantize_row(ds4_gguf::TensorType::Mxfp4, &blocks, &mut y);
    assert_eq!(x, y);
}

#[test]
fn a_matrix_needs_its_scales() {
    let text = |tensors: &[(&str, &str, &str, &[u8])]| {
        open(&file(tensors)).unwrap().matrix("a.weight").unwrap_err().to_string()
    };
    let codes = [0; 64];
    assert!(text(&[("a.weight", "F8_E4M3", "[1,64]", &codes)]).contains("has no scales"));
    let wrong =
        text(&[("a.weight", "I8", "[1,64]", &codes), ("a.scale", "F8_E8M0", "[1,3]", &codes[..3])]);
    assert!(wrong.contains("has scales F8E8M0 [1, 3], not F8E8M0 [1, 4]"), "{wrong}");
    assert!(text(&[("a.weight", "I8", "[1,10]", &codes[..10])]).contains("rows of 20 FP4"));
    assert!(text(&[("a.weight", "U8", "[1,64]", &codes)]).contains("is U8"));
    assert!(text(&[("a.weight", "F32", "[2,2,4]", &codes)]).contains("[2, 2, 4], not a matrix"));
}

#[test]
fn shards_are_found_through_the_index() {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, bytes: &[u8]| std::fs::write(dir.path().join(name), bytes).unwrap();
    let one = 1f32.to_le_bytes();
    write("s1.safetensors", &file(&[("a", "F32", "[1]", &one)]));
    write("s2.safetensors", &file(&[("b", "F32", "[1]", &one), ("c", "F32", "[1]", &one)]));
    let index = |map: &str| {
        write("model.safetensors.index.json", format!("{{\"weight_map\":{map}}}").as_bytes());
        Checkpoint::open(dir.path()).map_err(|e| e.to_string())
    };
    let c = index(r#"{"a":"s1.safetensors","b":"s2.safetensors","c":"s2.safetensors"}"#).unwrap();
    assert_eq!(c.names().collect::<Vec<_>>(), ["a", "b", "c"]);
    assert_eq!(c.tensor("c").unwrap().bytes, one);

    let text = index(r#"{"a":"s2.safetensors"}"#).unwrap_err();
    assert!(text.contains("tensor \"a\" is not in \"s2.safetensors\""), "{text}");
    let text = index(r#"{"a":"../s1.safetensors"}"#).unwrap_err();
    assert!(text.contains("is not the name of a file"), "{text}");
    let text = index(r#"{"a":"s3.safetensors"}"#).unwrap_err();
    assert!(text.contains("s3.safetensors: No such file"), "{text}");
    let text = index("7").unwrap_err();
    assert!(text.contains("not an index of a checkpoint"), "{text}");
    write("s2.safetensors", &file(&[("a", "F32", "[1]", &one)]));
    let text = index(r#"{"a":"s1.safetensors","b":"s2.safetensors"}"#).unwrap_err();
    assert!(text.contains("\"a\" is there twice"), "{text}");
}

#[test]
fn damaged_headers_are_refused() {
    let entry = |dtype: &str, shape: &str, offsets: &str| {
        let json = format!(
            "{{\"a\":{{\"dtype\":\"{dtype}\",\"shape\":{shape},\"data_offsets\":{offsets}}}}}"
        );
        refused(&with_header(&json, &[0; 8]))
    };
    assert!(entry("F32", "[3]", "[0,12]").contains("4 bytes are missing"));
    assert!(entry("F32", "[2]", "[0,4]").contains("needs 8 bytes, its offsets are [0, 4]"));
    assert!(entry("F32", "[2]", "[8,0]").contains("its offsets are [8, 0]"));
    assert!(entry("F5", "[2]", "[0,8]").contains("unknown variant `F5`"));
    assert!(entry("F32", "[4294967296,4294967296]", "[0,8]").contains("overflows"));
    assert!(entry("F32", "[-1]", "[0,8]").contains("not a safetensors header"));
    let last = u64::MAX;
    assert!(entry("I8", "[2]", &format!("[{},{last}]", last - 2)).contains("bytes are missing"));

    let ok = file(&[("a", "F32", "[1]", &[0; 4]), ("b", "F32", "[1]", &[0; 4])]);
    for n in 0..ok.len() {
        refused(&ok[..n]);
    }
    let overlap =
        String::from_utf8(ok[8..ok.len() - 8].to_vec()).unwrap().replace("[4,8]", "[2,6]");
    assert!(refused(&with_header(&overlap, &[0; 8])).contains("tensors \"a\" and \"b\" overlap"));
    let twice = overlap.replace("\"b\"", "\"a\"");
    assert!(refused(&with_header(&twice, &[0; 8])).contains("\"a\" appears twice"));
    assert!(refused(&u64::MAX.to_le_bytes()).contains("length of the header is"));
    assert!(refused(&with_header(&"[".repeat(1 << 16), &[])).contains("not a safetensors header"));
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn flipped_bits_never_panic(
        flips in proptest::collection::vec((0usize..1 << 16, 0u8..8), 1..6),
    ) {
        let mut bytes = file(&[
            ("a.weight", "I8", "[2,16]", &[7; 32]),
            ("a.scale", "F8_E8M0", "[2,1]", &[127; 2]),
            ("n", "BF16", "[3]", &[1; 6]),
        ]);
        for (at, bit) in flips {
            let at = at % bytes.len();
            bytes[at] ^= 1 << bit;
        }
        if let Ok(c) = open(&bytes) {
            for name in c.names() {
                if let Ok(m) = c.matrix(name) {
                    let mut x = vec![0.0; m.cols];
                    (0..m.rows).for_each(|r| m.row(r, &mut x));
                }
            }
        }
    }
}
