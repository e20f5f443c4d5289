//! Reads the official checkpoint: safetensors files, one or many with an index, over memory maps.
//!
//! Only the quantiser needs it. As strict as the GGUF reader: every length is checked before use.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::marker::PhantomData;
use std::ops::Range;
use std::path::Path;

use serde::Deserialize;
use serde::de::{Deserializer, Error as _, IgnoredAny, MapAccess, Visitor};

use crate::cursor::{Cursor, Quoted};
use crate::{Bytes, Error, TensorType, dequantize_row, fp8, limits};

/// The file in a checkpoint's folder that says which tensor is in which file.
const INDEX: &str = "model.safetensors.index.json";

/// The file of a checkpoint that is not split.
const SINGLE: &str = "model.safetensors";

/// Element type of a stored tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[expect(missing_docs, reason = "the names are the types")]
pub enum Dtype {
    F32,
    F16,
    #[serde(rename = "BF16")]
    Bf16,
    #[serde(rename = "F8_E4M3")]
    F8E4M3,
    #[serde(rename = "F8_E8M0")]
    F8E8M0,
    I8,
    U8,
    I32,
    I64,
}

impl Dtype {
    /// Bytes of an element.
    pub const fn bytes(self) -> usize {
        match self {
            Self::I8 | Self::U8 | Self::F8E4M3 | Self::F8E8M0 => 1,
            Self::F16 | Self::Bf16 => 2,
            Self::F32 | Self::I32 => 4,
            Self::I64 => 8,
        }
    }
}

/// A tensor of a checkpoint.
#[derive(Clone, Copy, Debug)]
pub struct CheckpointTensor<'a> {
    /// Element type.
    pub dtype: Dtype,
    /// Sizes, the last one is contiguous (the reverse of a GGUF's order).
    pub shape: &'a [usize],
    /// Its bytes.
    pub bytes: &'a [u8],
}

/// An open checkpoint.
#[derive(Debug)]
pub struct Checkpoint {
    name: String,
    shards: Vec<Bytes>,
    tensors: Vec<Record>,
    index: HashMap<String, usize>,
}

#[derive(Debug)]
struct Record {
    name: String,
    shard: usize,
    dtype: Dtype,
    shape: Vec<usize>,
    /// In the shard.
    range: Range<usize>,
}

impl Checkpoint {
    /// Opens a safetensors file, or a folder with one or with several and their index.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let name = path.display().to_string();
        let empty = Self { name, shards: Vec::new(), tensors: Vec::new(), index: HashMap::new() };
        let index = path.join(INDEX);
        if index.is_file() {
            empty.with_index(path, &index)
        } else if path.is_dir() {
            empty.with_shard(&path.join(SINGLE))
        } else {
            empty.with_shard(path)
        }
    }

    fn with_index(mut self, folder: &Path, index: &Path) -> Result<Self, Error> {
        #[derive(Deserialize)]
        struct Index {
            weight_map: Entries<String>,
        }
        let file = index.display().to_string();
        let text = Bytes::map_file(index).map_err(|e| Error::io(&file, e))?;
        let parsed: Index = serde_json::from_slice(text.as_slice())
            .map_err(|e| Error::format(&file, format!("not an index of a checkpoint: {e}")))?;
        let map = parsed.weight_map.0;
        let mut shards: HashMap<&str, usize> = HashMap::new();
        for (_, shard) in &map {
            if shards.contains_key(shard.as_str()) {
                continue;
            }
            // Only a plain name stays inside the folder.
            if Path::new(shard).file_name() != Some(shard.as_ref()) {
                return Err(Error::format(&file, format!("{shard:?} is not the name of a file")));
            }
            shards.insert(shard, self.shards.len());
            self = self.with_shard(&folder.join(shard))?;
        }
        for (tensor, shard) in &map {
            let found = self.index.get(tensor).map(|&i| self.tensors[i].shard);
            if found != shards.get(shard.as_str()).copied() {
                return Err(Error::format(&file, format!("tensor {tensor:?} is not in {shard:?}")));
            }
        }
        Ok(self)
    }

    fn with_shard(mut self, path: &Path) -> Result<Self, Error> {
        let file = path.display().to_string();
        let bytes = Bytes::map_file(path).map_err(|e| Error::io(&file, e))?;
        let shard = self.shards.len();
        for mut record in read_header(&file, bytes.as_slice())? {
            record.shard = shard;
            let name = record.name.clone();
            if self.index.insert(name, self.tensors.len()).is_some() {
                return Err(Error::format(
                    &file,
                    format!("tensor {:?} is there twice", record.name),
                ));
            }
            self.tensors.push(record);
        }
        self.shards.push(bytes);
        Ok(self)
    }

    /// Names of all tensors.
    pub fn names(&self) -> impl ExactSizeIterator<Item = &str> {
        self.tensors.iter().map(|t| t.name.as_str())
    }

    /// The tensor with this name.
    pub fn tensor(&self, name: &str) -> Option<CheckpointTensor<'_>> {
        let t = &self.tensors[*self.index.get(name)?];
        let bytes = &self.shards[t.shard].as_slice()[t.range.clone()];
        Some(CheckpointTensor { dtype: t.dtype, shape: &t.shape, bytes })
    }

    /// A matrix (or a vector, as one row) with its scales: `X.scale` belongs to `X.weight`.
    pub fn matrix(&self, name: &str) -> Result<CheckpointMatrix<'_>, Error> {
        let fail = |what: String| Err(Error::format(&self.name, format!("tensor {name:?} {what}")));
        let Some(data) = self.tensor(name) else {
            return fail("is missing".to_owned());
        };
        let (rows, stored) = match *data.shape {
            [cols] => (1, cols),
            [rows, cols] => (rows, cols),
            _ => return fail(format!("is {:?}, not a matrix", data.shape)),
        };
        let scale =
            name.strip_suffix("weight").and_then(|stem| self.tensor(&format!("{stem}scale")));
        let (cols, expected) = match data.dtype {
            Dtype::F8E4M3 => (stored, [rows, stored].map(|n| n.div_ceil(fp8::FP8_TILE))),
            // Two 4-bit elements in a byte.
            Dtype::I8 => {
                let cols = stored.saturating_mul(2);
                if !cols.is_multiple_of(fp8::FP4_BLOCK) {
                    return fail(format!("has rows of {cols} FP4 elements, not a multiple of 32"));
                }
                (cols, [rows, cols / fp8::FP4_BLOCK])
            }
            Dtype::U8 | Dtype::F8E8M0 => return fail(format!("is {:?}, not a matrix", data.dtype)),
            _ => return Ok(CheckpointMatrix { rows, cols: stored, data, scale: None }),
        };
        match scale {
            Some(s) if s.dtype == Dtype::F8E8M0 && s.shape == expected => {
                Ok(CheckpointMatrix { rows, cols, data, scale })
            }
            Some(s) => {
                fail(format!("has scales {:?} {:?}, not F8E8M0 {expected:?}", s.dtype, s.shape))
            }
            None => fail("has no scales".to_owned()),
        }
    }
}

/// A matrix of a checkpoint that gives its rows as f32.
#[derive(Clone, Copy, Debug)]
pub struct CheckpointMatrix<'a> {
    /// Output rows.
    pub rows: usize,
    /// Input columns.
    pub cols: usize,
    /// The elements; FP4 has two in a byte.
    pub data: CheckpointTensor<'a>,
    /// The scales of FP8 and FP4.
    pub scale: Option<CheckpointTensor<'a>>,
}

impl CheckpointMatrix<'_> {
    /// Decodes row `r` into `out`, which has `cols` elements. Integers become floats.
    pub fn row(&self, r: usize, out: &mut [f32]) {
        assert_eq!(out.len(), self.cols, "elements of a row");
        let row = |t: &CheckpointTensor<'_>, r: usize, rows: usize| {
            let n = t.bytes.len() / rows;
            r * n..(r + 1) * n
        };
        let bytes = &self.data.bytes[row(&self.data, r, self.rows)];
        let scales = |r: usize| match &self.scale {
            Some(s) => &s.bytes[row(s, r, s.shape[0])],
            None => unreachable!("FP8 and FP4 have scales"),
        };
        match self.data.dtype {
            Dtype::F32 => dequantize_row(TensorType::F32, bytes, out),
            Dtype::F16 => dequantize_row(TensorType::F16, bytes, out),
            Dtype::Bf16 => dequantize_row(TensorType::Bf16, bytes, out),
            Dtype::I32 => dequantize_row(TensorType::I32, bytes, out),
            Dtype::I64 => {
                for (x, &b) in out.iter_mut().zip(bytes.as_chunks::<8>().0) {
                    *x = i64::from_le_bytes(b) as f32;
                }
            }
            Dtype::F8E4M3 => fp8::fp8_row(bytes, scales(r / fp8::FP8_TILE), out),
            Dtype::I8 => fp8::fp4_row(bytes, scales(r), out),
            Dtype::U8 | Dtype::F8E8M0 => unreachable!("refused by `Checkpoint::matrix`"),
        }
    }
}

/// One entry of a file's header.
#[derive(Deserialize)]
struct Entry {
    dtype: Dtype,
    shape: Vec<u64>,
    data_offsets: [u64; 2],
}

/// A JSON object in its order; refuses a key that appears twice, leaves out the texts about the
/// file that are kept under `__metadata__`.
struct Entries<T>(Vec<(String, T)>);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Entries<T> {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        d.deserialize_map(Collect(PhantomData)).map(Self)
    }
}

struct Collect<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for Collect<T> {
    type Value = Vec<(String, T)>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object with one entry per tensor")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let (mut entries, mut seen) = (Vec::new(), HashSet::new());
        while let Some(key) = map.next_key::<String>()? {
            if !seen.insert(key.clone()) {
                return Err(A::Error::custom(format_args!("{} appears twice", Quoted(&key))));
            }
            if key == "__metadata__" {
                map.next_value::<IgnoredAny>()?;
            } else {
                entries.push((key, map.next_value()?));
            }
        }
        Ok(entries)
    }
}

/// Reads and checks a file's header: a u64 length, then JSON; the data follows.
fn read_header(file: &str, data: &[u8]) -> Result<Vec<Record>, Error> {
    let cursor = &mut Cursor::new(file, data);
    let len =
        cursor.count(limits::SAFETENSORS_HEADER_BYTES_MAX, format_args!("length of the header"))?;
    let json = cursor.take(len, format_args!("header"))?;
    let entries: Entries<Entry> = serde_json::from_slice(json)
        .map_err(|e| Error::format(file, format!("not a safetensors header: {e}")))?;
    let mut records = Vec::with_capacity(entries.0.len());
    for (name, entry) in entries.0 {
        let (shape, range) = place(&entry, cursor.pos(), data.len())
            .map_err(|what| Error::format(file, format!("tensor {}: {what}", Quoted(&name))))?;
        records.push(Record { name, shard: 0, dtype: entry.dtype, shape, range });
    }
    let mut order: Vec<&Record> = records.iter().collect();
    order.sort_by_key(|r| r.range.start);
    for pair in order.windows(2) {
        if pair[0].range.end > pair[1].range.start {
            let (a, b) = (Quoted(&pair[0].name), Quoted(&pair[1].name));
            return Err(Error::format(file, format!("tensors {a} and {b} overlap")));
        }
    }
    Ok(records)
}

/// Shape and place in the file of a tensor, whose data begins at `start`.
fn place(entry: &Entry, start: usize, len: usize) -> Result<(Vec<usize>, Range<usize>), String> {
    let [begin, end] = entry.data_offsets;
    let shape = entry.shape.iter().map(|&n| usize::try_from(n).ok()).collect::<Option<Vec<_>>>();
    let bytes = shape
        .as_ref()
        .and_then(|shape| shape.iter().try_fold(entry.dtype.bytes(), |n, &d| n.checked_mul(d)));
    let (Some(shape), Some(bytes)) = (shape, bytes) else {
        return Err(format!("shape {:?} overflows", entry.shape));
    };
    if end.checked_sub(begin) != Some(bytes as u64) {
        let found = entry.data_offsets;
        return Err(format!("shape {shape:?} needs {bytes} bytes, its offsets are {found:?}"));
    }
    let left = (len - start) as u64;
    match (usize::try_from(begin), usize::try_from(end)) {
        (Ok(begin), Ok(end)) if end <= len - start => Ok((shape, start + begin..start + end)),
        _ => Err(format!(
            "truncated: {} bytes are missing; fetch the file again",
            end.saturating_sub(left)
        )),
    }
}
