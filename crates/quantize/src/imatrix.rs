//! Importance matrices: how much an error in each input column of a matrix matters.
//!
//! The legacy `.dat` layout of llama.cpp (architecture.md §6.13): i32 entries; per entry i32 name
//! length, name, i32 calls, i32 values, f32 values, which are divided by the calls. A stack of
//! experts has its vectors one after the other.

use std::collections::HashMap;
use std::path::Path;

use crate::{Error, Result};

/// Largest accepted name, in bytes.
const NAME_BYTES_MAX: usize = 512;

/// Column weights of several tensors.
#[derive(Clone, Debug, Default)]
pub struct Imatrix {
    entries: HashMap<String, Vec<f32>>,
}

/// Takes pieces off the front of a file.
struct Cursor<'a> {
    rest: &'a [u8],
    file: &'a str,
}

impl<'a> Cursor<'a> {
    fn fail<T>(&self, what: impl Into<String>) -> Result<T> {
        Err(Error::Imatrix { file: self.file.to_owned(), what: what.into() })
    }

    fn take(&mut self, n: usize) -> Result<&'a [u8]> {
        let Some((head, rest)) = self.rest.split_at_checked(n) else {
            let missing = n - self.rest.len();
            return self.fail(format!("the file is cut short: {missing} bytes are missing"));
        };
        self.rest = rest;
        Ok(head)
    }

    /// A count that is never negative.
    fn count(&mut self, what: &str) -> Result<usize> {
        let bytes = self.take(4)?;
        let n = i32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
        match usize::try_from(n) {
            Ok(n) => Ok(n),
            Err(_) => self.fail(format!("{what} is {n}")),
        }
    }
}

impl Imatrix {
    /// Reads a `.dat` file.
    pub fn open(path: &Path) -> Result<Self> {
        let file = path.display().to_string();
        let bytes = std::fs::read(path)
            .map_err(|e| Error::Imatrix { file: file.clone(), what: e.to_string() })?;
        Self::parse(&file, &bytes)
    }

    /// Reads the bytes of a `.dat` file.
    pub fn parse(file: &str, bytes: &[u8]) -> Result<Self> {
        if bytes.starts_with(b"GGUF") {
            return Err(Error::Imatrix {
                file: file.to_owned(),
                what: "this is a GGUF importance matrix; convert it to the .dat layout".into(),
            });
        }
        let mut c = Cursor { rest: bytes, file };
        let n = c.count("the number of entries")?;
        let mut entries = HashMap::new();
        for _ in 0..n {
            let (name, values) = read_entry(&mut c)?;
            entries.insert(name, values);
        }
        // The program that wrote the file may append the number of chunks and the data set's name.
        Ok(Self { entries })
    }

    /// Sets the weights of a tensor: `[stack][cols]` one after the other.
    pub fn insert(&mut self, tensor: &str, weights: Vec<f32>) {
        self.entries.insert(tensor.to_owned(), weights);
    }

    /// The bytes of a `.dat` file with these weights as the means of `calls` calls; entries in the
    /// order of their names.
    ///
    /// # Errors
    /// [`Error::Option`] when a name or a tensor is longer than the layout can tell.
    pub fn to_bytes(&self, calls: u32) -> Result<Vec<u8>> {
        let count = |n: usize| {
            i32::try_from(n).map_err(|_| Error::Option(format!("{n} are too many for a .dat file")))
        };
        let calls = count(calls as usize)?.max(1);
        let mut names: Vec<_> = self.entries.iter().collect();
        names.sort_by_key(|(name, _)| *name);
        let mut out = count(names.len())?.to_le_bytes().to_vec();
        for (name, weights) in names {
            out.extend(count(name.len())?.to_le_bytes());
            out.extend(name.as_bytes());
            out.extend(calls.to_le_bytes());
            out.extend(count(weights.len())?.to_le_bytes());
            out.extend(weights.iter().flat_map(|w| (w * calls as f32).to_le_bytes()));
        }
        Ok(out)
    }

    /// The weights of a tensor: `[stack][cols]` one after the other, or one vector for all.
    pub fn weights(&self, tensor: &str) -> Option<&[f32]> {
        self.entries.get(tensor).map(Vec::as_slice)
    }

    /// Number of tensors.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

fn read_entry(c: &mut Cursor<'_>) -> Result<(String, Vec<f32>)> {
    let name_bytes = c.count("the length of a name")?;
    if name_bytes > NAME_BYTES_MAX {
        return c.fail(format!("a name has {name_bytes} bytes"));
    }
    let Ok(name) = std::str::from_utf8(c.take(name_bytes)?).map(str::to_owned) else {
        return c.fail("a name is not UTF-8");
    };
    let calls = c.count("the number of calls")?.max(1) as f32;
    let n = c.count("the number of values")?;
    let Some(bytes) = n.checked_mul(4) else { return c.fail("too many values") };
    let (words, _) = c.take(bytes)?.as_chunks::<4>();
    let values: Vec<f32> = words.iter().map(|w| f32::from_le_bytes(*w) / calls).collect();
    if let Some(bad) = values.iter().find(|v| !v.is_finite() || **v < 0.0) {
        return c.fail(format!("{name} has the weight {bad}"));
    }
    Ok((name, values))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Vec<u8> {
        let mut b = 1i32.to_le_bytes().to_vec();
        b.extend(3i32.to_le_bytes());
        b.extend(b"abc");
        b.extend(2i32.to_le_bytes());
        b.extend(2i32.to_le_bytes());
        b.extend(3.0f32.to_le_bytes());
        b.extend(5.0f32.to_le_bytes());
        b
    }

    #[test]
    fn values_are_means() {
        let m = Imatrix::parse("x", &sample()).unwrap();
        assert_eq!(m.weights("abc"), Some(&[1.5, 2.5][..]));
        assert_eq!(m.weights("abd"), None);
    }

    #[test]
    fn what_is_written_is_read() {
        let mut m = Imatrix::default();
        m.insert("b", vec![0.5, 0.0]);
        m.insert("a", vec![3.0]);
        let bytes = m.to_bytes(4).unwrap();
        let read = Imatrix::parse("x", &bytes).unwrap();
        assert_eq!((read.len(), read.weights("a")), (2, Some(&[3.0][..])));
        assert_eq!(read.weights("b"), Some(&[0.5, 0.0][..]));
        assert_eq!(Imatrix::parse("x", &m.to_bytes(0).unwrap()).unwrap().len(), 2);
    }

    #[test]
    fn every_truncation_is_an_error() {
        let whole = sample();
        for n in 0..whole.len() {
            assert!(Imatrix::parse("x", &whole[..n]).is_err(), "{n} bytes");
        }
        let mut huge = whole;
        huge[..4].copy_from_slice(&i32::MAX.to_le_bytes());
        assert!(Imatrix::parse("x", &huge).is_err());
    }
}
