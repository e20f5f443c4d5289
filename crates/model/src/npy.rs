//! Arrays as numpy's `.npy` files, version 1: how stages and logits are handed to other tools.

use std::io::{self, Read, Write};

/// A row-major array. Integers are held as floats, exact up to 2^24.
#[derive(Clone, Debug, PartialEq)]
pub struct Array {
    /// Sizes, outermost first.
    pub shape: Vec<usize>,
    /// As many values as the product of the sizes.
    pub data: Vec<f32>,
}

/// Element type of a written file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Elem {
    /// `<f4`.
    F32,
    /// `<i4`.
    I32,
    /// `<i8`.
    I64,
}

/// Largest header that is read.
const HEADER_MAX: usize = 1 << 16;
/// Largest array that is read, in values.
const VALUES_MAX: usize = 1 << 32;

impl Array {
    /// An array of this shape.
    ///
    /// # Panics
    /// If the number of values is not the product of the sizes.
    pub fn new(shape: Vec<usize>, data: Vec<f32>) -> Self {
        assert_eq!(shape.iter().product::<usize>(), data.len(), "shape {shape:?}");
        Self { shape, data }
    }

    /// Size of the first dimension.
    pub fn rows(&self) -> usize {
        self.shape.first().copied().unwrap_or(1)
    }

    /// Values per element of the first dimension.
    pub fn width(&self) -> usize {
        self.shape.iter().skip(1).product()
    }

    /// Element `ix` of the first dimension.
    pub fn row(&self, ix: usize) -> &[f32] {
        &self.data[ix * self.width()..(ix + 1) * self.width()]
    }

    /// The first `n` elements of the first dimension, or all if there are fewer.
    #[must_use]
    pub fn head(&self, n: usize) -> Self {
        let n = n.min(self.rows());
        let mut shape = self.shape.clone();
        shape[0] = n;
        Self::new(shape, self.data[..n * self.width()].to_vec())
    }

    /// Writes a `.npy` file; integer types take the integer part.
    pub fn write(&self, elem: Elem, w: &mut dyn Write) -> io::Result<()> {
        w.write_all(&header(elem, &self.shape)?)?;
        for part in self.data.chunks(1 << 16) {
            w.write_all(&encode(elem, part))?;
        }
        Ok(())
    }

    /// Reads a `.npy` file of floats (4 or 8 bytes) or integers (4 or 8 bytes).
    pub fn read(r: &mut dyn Read) -> io::Result<Self> {
        let mut start = [0; 10];
        r.read_exact(&mut start)?;
        let len = match start {
            [0x93, b'N', b'U', b'M', b'P', b'Y', 1, _, a, b] => {
                usize::from(u16::from_le_bytes([a, b]))
            }
            [0x93, b'N', b'U', b'M', b'P', b'Y', version, ..] => {
                return Err(invalid(&format!("npy version {version}, expected 1")));
            }
            _ => return Err(invalid("not a npy file")),
        };
        if len > HEADER_MAX {
            return Err(invalid(&format!("npy header of {len} bytes")));
        }
        let mut header = vec![0; len];
        r.read_exact(&mut header)?;
        let header = String::from_utf8(header).map_err(|_| invalid("npy header is no text"))?;
        if !field(&header, "fortran_order")?.starts_with("False") {
            return Err(invalid("npy array is column-major, expected row-major"));
        }
        let shape = sizes(field(&header, "shape")?)?;
        let n = shape.iter().try_fold(1usize, |n, d| n.checked_mul(*d));
        let n = n.filter(|n| *n <= VALUES_MAX);
        let n = n.ok_or_else(|| invalid(&format!("npy array of shape {shape:?} is too large")))?;
        let descr = field(&header, "descr")?;
        let data = decode(descr.trim_start_matches(['\'', '"']), n, r)?;
        Ok(Self { shape, data })
    }
}

/// Everything before the data: for arrays that are written as they are computed.
pub fn header(elem: Elem, shape: &[usize]) -> io::Result<Vec<u8>> {
    let descr = match elem {
        Elem::F32 => "<f4",
        Elem::I32 => "<i4",
        Elem::I64 => "<i8",
    };
    let sizes: Vec<String> = shape.iter().map(usize::to_string).collect();
    // A tuple of one needs its comma, an empty one must not have any.
    let (sizes, comma) = (sizes.join(","), if sizes.is_empty() { "" } else { "," });
    let mut text =
        format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': ({sizes}{comma}), }}");
    // Magic, version and length take 10 bytes; the data begins at a multiple of 64.
    let len = (10 + text.len() + 1).next_multiple_of(64) - 10;
    text.push_str(&" ".repeat(len - text.len() - 1));
    text.push('\n');
    let len = u16::try_from(len).map_err(|_| invalid("too many dimensions"))?;
    let mut out = b"\x93NUMPY\x01\x00".to_vec();
    out.extend_from_slice(&len.to_le_bytes());
    out.extend_from_slice(text.as_bytes());
    Ok(out)
}

fn invalid(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

/// Text after a key of the header's dictionary.
fn field<'a>(header: &'a str, key: &str) -> io::Result<&'a str> {
    let found = header.split_once(&format!("'{key}':")).map(|(_, rest)| rest.trim_start());
    found.ok_or_else(|| invalid(&format!("npy header has no {key}")))
}

fn sizes(text: &str) -> io::Result<Vec<usize>> {
    let inner = text.strip_prefix('(').and_then(|t| t.split_once(')'));
    let (inner, _) = inner.ok_or_else(|| invalid("npy shape is no tuple"))?;
    let sizes = inner.split(',').map(str::trim).filter(|t| !t.is_empty());
    sizes.map(|t| t.parse().map_err(|_| invalid(&format!("npy shape has {t:?}")))).collect()
}

#[expect(clippy::cast_possible_truncation, reason = "integers are below 2^24")]
fn encode(elem: Elem, values: &[f32]) -> Vec<u8> {
    match elem {
        Elem::F32 => values.iter().flat_map(|x| x.to_le_bytes()).collect(),
        Elem::I32 => values.iter().flat_map(|x| (*x as i32).to_le_bytes()).collect(),
        Elem::I64 => values.iter().flat_map(|x| (*x as i64).to_le_bytes()).collect(),
    }
}

#[expect(clippy::cast_possible_truncation, reason = "f64 is rounded to f32")]
fn decode(descr: &str, n: usize, r: &mut dyn Read) -> io::Result<Vec<f32>> {
    match descr.get(..3) {
        Some("<f4") => each(n, r, |b| Ok(f32::from_le_bytes(b))),
        Some("<f8") => each(n, r, |b| Ok(f64::from_le_bytes(b) as f32)),
        Some("<i4") => each(n, r, |b| integer(i32::from_le_bytes(b).into())),
        Some("<i8") => each(n, r, |b| integer(i64::from_le_bytes(b))),
        _ => Err(invalid(&format!("npy elements are {descr:.4}, expected <f4, <f8, <i4 or <i8"))),
    }
}

fn integer(i: i64) -> io::Result<f32> {
    if i.unsigned_abs() > 1 << 24 {
        return Err(invalid(&format!("npy integer {i} is beyond 2^24")));
    }
    Ok(i as f32)
}

/// Reads `n` values of `N` bytes, in parts so that a false `n` reserves nothing.
fn each<const N: usize>(
    n: usize,
    r: &mut dyn Read,
    value: impl Fn([u8; N]) -> io::Result<f32>,
) -> io::Result<Vec<f32>> {
    let mut data = Vec::new();
    let mut part = vec![0; N << 12];
    while data.len() < n {
        let bytes = &mut part[..N * (n - data.len()).min(1 << 12)];
        r.read_exact(bytes)?;
        for value_bytes in bytes.as_chunks::<N>().0 {
            data.push(value(*value_bytes)?);
        }
    }
    Ok(data)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arrays_survive_the_file() {
        let shapes: [&[usize]; 5] = [&[], &[0], &[7], &[3, 5], &[2, 3, 4]];
        for shape in shapes {
            let n: usize = shape.iter().product();
            let a = Array::new(shape.to_vec(), (0..n).map(|i| i as f32 - 2.0).collect());
            for elem in [Elem::F32, Elem::I32, Elem::I64] {
                let mut file = Vec::new();
                a.write(elem, &mut file).unwrap();
                let header = file.len() - n * if elem == Elem::I64 { 8 } else { 4 };
                assert!(header.is_multiple_of(64), "{header}");
                assert_eq!(Array::read(&mut file.as_slice()).unwrap(), a, "{shape:?} {elem:?}");
            }
        }
    }

    #[test]
    fn infinities_survive_and_f64_is_rounded() {
        let a = Array::new(vec![2], vec![f32::NEG_INFINITY, 0.1]);
        let mut file = Vec::new();
        a.write(Elem::F32, &mut file).unwrap();
        assert_eq!(Array::read(&mut file.as_slice()).unwrap(), a);
        let mut wide = b"\x93NUMPY\x01\x00\x40\x00".to_vec();
        let header = "{'descr': '<f8', 'fortran_order': False, 'shape': (1,), }";
        wide.extend(format!("{header:<63}\n").bytes());
        wide.extend(0.1f64.to_le_bytes());
        assert_eq!(Array::read(&mut wide.as_slice()).unwrap().data, [0.1]);
    }

    #[test]
    fn damaged_files_are_errors() {
        let mut file = Vec::new();
        Array::new(vec![2, 2], vec![1.0; 4]).write(Elem::F32, &mut file).unwrap();
        for len in 0..file.len() {
            assert!(Array::read(&mut &file[..len]).is_err(), "{len}");
        }
        let text = String::from_utf8_lossy(&file[10..128]).into_owned();
        for (from, to) in [
            ("<f4", ">f4"),
            ("False", "True "),
            ("(2,2,)", "(9999999999999999999,)"),
            ("(2,2,)", "(4294967295,4294967295)"),
            ("(2,2,)", "(-1,2,)"),
            ("shape", "shade"),
        ] {
            let mut bad = file[..10].to_vec();
            bad.extend(format!("{:.118}", text.replace(from, to)).bytes());
            bad.extend(&file[128..]);
            assert!(Array::read(&mut bad.as_slice()).is_err(), "{to}");
        }
    }
}
