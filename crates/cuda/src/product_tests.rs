//! Products of few tokens on the emulator, with matrices of every form and many shapes.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail like tests")]

use std::sync::Arc;

use ds4_model::testing::quant_dims;
use zerocopy::IntoBytes;

use crate::constants::Constants;
use crate::device::Device;
use crate::kernel_tests::DEVICE;
use crate::launch::{Job, Kind, products};
use crate::matrix::{DeviceMatrix, Form};
use crate::scratch::{Acts, FEW};

/// Numbers that look random.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.0 >> 33
    }

    fn bytes(&mut self, n: usize) -> Vec<i8> {
        (0..n).map(|_| i8::try_from(self.next().cast_signed() % 255 - 127).unwrap()).collect()
    }

    fn values(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| (self.next() % 2001) as f32 * 1e-3 - 1.0).collect()
    }
}

/// A matrix on the device and its values; those of `Q8_0` as integers and scales of 32.
struct Weights {
    matrix: DeviceMatrix,
    values: Vec<f32>,
    scales: Vec<f32>,
}

fn weights(
    device: &Arc<Device>,
    random: &mut Random,
    form: Form,
    rows: usize,
    cols: usize,
) -> Weights {
    let shape = (form, rows, cols);
    let plane = |values: &[f32]| -> Vec<u8> {
        values.iter().flat_map(|v| half::f16::from_f32(*v).to_le_bytes()).collect()
    };
    let rounded = |values: Vec<f32>| -> Vec<f32> {
        values.into_iter().map(|v| half::f16::from_f32(v).to_f32()).collect()
    };
    if form == Form::Q8_0 {
        let q = random.bytes(rows * cols);
        let scales = rounded(random.values(rows * cols / 32));
        let matrix = DeviceMatrix::of_planes(device, shape, q.as_bytes(), &plane(&scales)).unwrap();
        return Weights { matrix, values: q.iter().map(|q| f32::from(*q)).collect(), scales };
    }
    let values = random.values(rows * cols);
    let (values, bytes) = match form {
        Form::F16 => (rounded(values.clone()), plane(&values)),
        _ => (values.clone(), values.as_bytes().to_vec()),
    };
    let matrix = DeviceMatrix::of_planes(device, shape, &bytes, &[]).unwrap();
    Weights { matrix, values, scales: Vec::new() }
}

/// Rows of the input and, without any relation to them, what stands for their `Q8_0` form.
struct Input {
    f: Vec<f32>,
    q: Vec<i8>,
    d: Vec<f32>,
}

impl Input {
    fn new(random: &mut Random, n: usize) -> Self {
        Self { f: random.values(n), q: random.bytes(n), d: random.values(n / 32) }
    }
}

impl Weights {
    /// The product of a row with the input from `from` on, and the sum of its terms' sizes.
    fn product(&self, row: usize, input: &Input, from: usize) -> (f64, f64) {
        let cols = self.matrix.cols;
        let terms = (0..cols).map(|c| {
            let (at, x) = (row * cols + c, from + c);
            let v = f64::from(self.values[at]);
            if self.matrix.form == Form::Q8_0 {
                v * f64::from(input.q[x]) * f64::from(self.scales[at / 32] * input.d[x / 32])
            } else {
                v * f64::from(input.f[x])
            }
        });
        terms.fold((0.0, 0.0), |(sum, size), term| (sum + term, size + term.abs()))
    }
}

/// Products of few tokens with matrices of every form: rows and columns that fill no tile, rows in
/// groups, and results that are quantised.
#[test]
fn products_of_few_tokens_are_sums_of_products() {
    let device = Arc::clone(&DEVICE);
    let constants = Constants::read(&device, &quant_dims()).unwrap();
    let mut random = Random(3);
    for (form, rows, cols, groups, quantises) in [
        (Form::Q8_0, 72, 4096, 1, false),
        (Form::Q8_0, 128, 4096, 2, true),
        (Form::Q8_0, 70, 8192, 1, false),
        (Form::Q8_0, 150, 1024, 1, false),
        (Form::Q8_0, 128, 1024, 2, true),
        (Form::Q8_0, 75, 2048, 1, false),
        (Form::Q8_0, 300, 256, 1, false),
        (Form::Q8_0, 64, 768, 2, true),
        (Form::Q8_0, 21, 96, 1, false),
        (Form::F16, 21, 4096, 1, false),
        (Form::F16, 18, 36, 1, false),
        (Form::F32, 9, 2052, 1, false),
    ] {
        let w = weights(&device, &mut random, form, rows, cols);
        let width = groups * cols;
        let input = Input::new(&mut random, FEW * width);
        let buf = |bytes: &[u8]| {
            let buf = device.alloc(bytes.len()).unwrap();
            device.write(buf.at(), bytes).unwrap();
            buf
        };
        for t in [1, 2, 3, 5, 8, 11, 16] {
            // No more rows of the input than tokens: reading others shows.
            let x = Acts {
                f: buf(input.f[..t * width].as_bytes()),
                q: buf(input.q[..t * width].as_bytes()),
                d: buf(input.d[..t * width / 32].as_bytes()),
                cols: width,
            };
            let y = Acts {
                f: device.alloc(4 * t * rows).unwrap(),
                q: device.alloc(t * rows).unwrap(),
                d: device.alloc(t * rows / 32 * 4).unwrap(),
                cols: rows,
            };
            let mut job = Job::new(&w.matrix, y.f.at()).groups(groups);
            if quantises {
                job = job.kind(Kind::Quantised(&y));
            }
            products(&device, &constants, &x, t, &[job]).unwrap();
            let (mut got, mut got_q) = (vec![0.0_f32; t * rows], vec![0_i8; t * rows]);
            let mut got_d = vec![0.0_f32; t * rows / 32];
            device.read(y.f.at(), got.as_mut_bytes()).unwrap();
            device.read(y.q.at(), got_q.as_mut_bytes()).unwrap();
            device.read(y.d.at(), got_d.as_mut_bytes()).unwrap();
            for i in 0..t * rows {
                let (token, row) = (i / rows, i % rows);
                let from = token * width + row / (rows / groups) * cols;
                let (sum, size) = w.product(row, &input, from);
                let what = format!("{form:?} {rows} x {cols}, {t} tokens: row {row} of {token}");
                if quantises {
                    let scale = f64::from(got_d[i / 32]);
                    let v = f64::from(got_q[i]) * scale;
                    assert!((v - sum).abs() <= 0.51 * scale + 1e-5 * size, "{what}: {v} for {sum}");
                } else {
                    let v = f64::from(got[i]);
                    assert!((v - sum).abs() <= 1e-5 * size, "{what}: {v} for {sum}");
                }
            }
        }
    }
}
