//! Every decoder gives exactly the floats of the reference decoders (testdata/quant/README.md).
#![expect(clippy::unwrap_used, clippy::float_cmp, reason = "test helpers; bit-exact on purpose")]

mod common;

use std::fmt::Write as _;

use common::{bytes, floats};
use ds4_gguf::block::{Mxfp4, blocks, blocks_mut};
use ds4_gguf::tables::{E2M1, E2M1_DOUBLED, E4M3, IQ2_SIGNS, IQ2_XXS_GRID, e8m0, e8m0_half};
use ds4_gguf::{TensorType, dequantize_row, fp8};
use sha2::{Digest, Sha256};

fn sha256(values: &[f32]) -> String {
    let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
    Sha256::digest(&bytes).iter().fold(String::new(), |mut hex, b| {
        write!(hex, "{b:02x}").unwrap();
        hex
    })
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|v| v.to_bits()).collect()
}

fn check(ty: TensorType, file: &str, expected_sha256: &str) {
    let raw = bytes(&format!("{file}.raw"));
    let mut out = vec![0.0; raw.len() / ty.block_bytes() * ty.block_elems()];
    dequantize_row(ty, &raw, &mut out);
    let head = floats(&format!("{file}.head.f32"));
    assert_eq!(bits(&out[..head.len()]), bits(&head), "{file}: first blocks");
    assert_eq!(sha256(&out), expected_sha256, "{file}: all blocks");
}

#[test]
fn every_block_format_is_bit_exact() {
    let cases = [
        (
            TensorType::Q8_0,
            "q8_0",
            "7f7707931f48d8646be0109932f23db0c282ddfe5719519140b2ce8e49bd2d9a",
        ),
        (
            TensorType::Q2K,
            "q2_k",
            "64906cfb3c8a02c7125af3597dde95616ffa50f937be486680abbb09c4e1bae3",
        ),
        (
            TensorType::Q4K,
            "q4_k",
            "f000e572c2119bb93901862af7a2dc86d042873dec2bbac876d32cb245efa83e",
        ),
        (
            TensorType::Iq2Xxs,
            "iq2_xxs",
            "71301232455263f90bf0df6cc7e365097ed9ece6ca13612a203da4d1a812a0bd",
        ),
        (
            TensorType::Mxfp4,
            "mxfp4",
            "ab6eb2314b0d0fbcb5ad5849a21f502c7ebc5d2365c59366db467d93069c4c28",
        ),
    ];
    for (ty, file, expected) in cases {
        check(ty, file, expected);
    }
}

#[test]
fn plain_types_keep_their_values() {
    let mut out = [0.0; 2];
    dequantize_row(TensorType::F32, &[0, 0, 0x80, 0x3f, 0, 0, 0, 0x80], &mut out);
    assert_eq!(bits(&out), bits(&[1.0, -0.0]));
    // The smallest subnormal and the largest finite binary16.
    dequantize_row(TensorType::F16, &[1, 0, 0xff, 0xfb], &mut out);
    assert_eq!(out, [2f32.powi(-24), -65504.0]);
    dequantize_row(TensorType::Bf16, &[0x80, 0x3f, 0x49, 0xc0], &mut out);
    assert_eq!(out, [1.0, -3.140_625]);
    dequantize_row(TensorType::I32, &[7, 0, 0, 0, 0xff, 0xff, 0xff, 0xff], &mut out);
    assert_eq!(out, [7.0, -1.0]);
}

#[test]
#[should_panic(expected = "bytes of 32 elements of Q8_0")]
fn a_wrong_length_is_a_programmer_error() {
    dequantize_row(TensorType::Q8_0, &[0; 33], &mut [0.0; 32]);
}

#[test]
fn fp8_tiles_are_bit_exact() {
    let (codes, scales) = (bytes("fp8_e4m3_128.codes.u8"), bytes("fp8_e4m3_128.scale_e8m0.u8"));
    let mut out = vec![0.0; codes.len()];
    for (r, (codes, out)) in codes.chunks(256).zip(out.chunks_mut(256)).enumerate() {
        fp8::fp8_row(codes, &scales[2 * (r / 128)..][..2], out);
    }
    let expected = "7f584a552338ab10a63226058246dbccbfb9c78a514473fb4e059bcbc8730ff0";
    assert_eq!(sha256(&out), expected);
}

#[test]
fn fp8_rows_may_end_inside_a_tile() {
    let mut out = [0.0; 130];
    fp8::fp8_row(&[0x38; 130], &[127, 128], &mut out);
    assert_eq!((out[127], out[128], out[129]), (1.0, 2.0, 2.0));
}

#[test]
fn fp4_rows_are_bit_exact_and_repack_without_loss() {
    let (packed, scales) = (bytes("fp4_hf.packed.u8"), bytes("fp4_hf.scale_e8m0.u8"));
    let mut out = vec![0.0; packed.len() * 2];
    for ((packed, scales), out) in packed.chunks(128).zip(scales.chunks(8)).zip(out.chunks_mut(256))
    {
        fp8::fp4_row(packed, scales, out);
    }
    let expected = "afc76e19985220d589669b10cd568b116ef161e64b6234433d03bda721a3d5b6";
    assert_eq!(sha256(&out), expected);

    let mut repacked = vec![0; scales.len() * 17];
    fp8::fp4_to_mxfp4(&packed, &scales, blocks_mut(&mut repacked));
    let mut again = vec![0.0; out.len()];
    dequantize_row(TensorType::Mxfp4, &repacked, &mut again);
    // Not by bits: MXFP4's integers have no minus zero.
    assert_eq!(again, out);
    assert_eq!(blocks::<Mxfp4>(&repacked)[3].e, scales[3]);
}

#[test]
fn tables_follow_their_definitions() {
    let expected = floats("e4m3_table.f32");
    for (code, (&ours, expected)) in E4M3.iter().zip(expected).enumerate() {
        assert!(ours == expected || ours.is_nan() && expected.is_nan(), "E4M3 {code:#x}");
    }
    for (value, doubled) in E2M1.iter().zip(E2M1_DOUBLED) {
        assert_eq!(2.0 * value, f32::from(doubled));
    }
    for code in 0..=254 {
        let exact = 2f64.powi(i32::from(code) - 127);
        assert_eq!(f64::from(e8m0(code)), exact);
        assert_eq!(f64::from(e8m0_half(code)), exact / 2.0);
    }
    assert!(e8m0(255).is_nan());
    for (i, signs) in IQ2_SIGNS.iter().enumerate() {
        assert_eq!((usize::from(signs & 127), signs.count_ones() % 2), (i, 0));
    }
    assert_eq!(IQ2_XXS_GRID[4].to_le_bytes(), [43, 43, 8, 8, 8, 8, 8, 8]);
}
