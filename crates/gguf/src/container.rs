//! The GGUF container (§5.1): header, metadata, tensor directory; every length checked before use.

use std::collections::HashMap;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use crate::cursor::Cursor;
use crate::{Bytes, Error, Metadata, TensorType, limits};

/// An open GGUF file.
#[derive(Debug)]
pub struct Gguf {
    name: String,
    bytes: Arc<Bytes>,
    alignment: usize,
    data_start: usize,
    metadata: Metadata,
    tensors: Vec<TensorInfo>,
    index: HashMap<String, usize>,
}

/// One tensor of the directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorInfo {
    /// Name, unique in the file.
    pub name: String,
    /// 1 to 4 sizes, none 0; the first is the contiguous (input) dimension.
    pub dims: Vec<u64>,
    /// Storage format.
    pub ty: TensorType,
    /// Its bytes in [`Gguf::data`].
    pub range: Range<usize>,
}

impl TensorInfo {
    /// Elements of a row: the first dimension.
    pub fn cols(&self) -> usize {
        usize::try_from(self.dims[0]).expect("the row fits into the file")
    }

    /// Rows: the product of the other dimensions.
    pub fn rows(&self) -> usize {
        self.range.len() / self.ty.row_bytes(self.cols()).expect("checked when opened")
    }

    /// Number of elements.
    pub fn elems(&self) -> u64 {
        self.dims.iter().product()
    }
}

impl Gguf {
    /// Maps and checks a file. It must not be changed while it is open.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let name = path.display().to_string();
        let bytes = Bytes::map_file(path).map_err(|e| Error::io(&name, e))?;
        Self::from_bytes(&name, bytes)
    }

    /// Checks bytes that are in memory already; `name` stands for the path in messages.
    pub fn from_bytes(name: &str, bytes: impl Into<Bytes>) -> Result<Self, Error> {
        let bytes = Arc::new(bytes.into());
        let data = bytes.as_slice();
        let cursor = &mut Cursor::new(name, data);
        check_magic(name, data, cursor)?;
        let n_tensors = cursor.count(limits::TENSORS_MAX, format_args!("number of tensors"))?;
        let n_keys = cursor.count(limits::METADATA_MAX, format_args!("number of metadata keys"))?;
        let metadata = Metadata::read(name, &bytes, cursor, n_keys)?;
        let alignment = alignment(&metadata)?;
        let raw = (0..n_tensors)
            .map(|i| RawTensor::read(cursor, i, n_tensors))
            .collect::<Result<Vec<_>, _>>()?;
        let data_start = cursor.pos().next_multiple_of(alignment);
        let (tensors, index) = place(name, raw, data_start, alignment, data.len())?;
        Ok(Self { name: name.to_owned(), alignment, data_start, metadata, tensors, index, bytes })
    }

    /// The path, or the name given to [`Gguf::from_bytes`].
    pub fn name(&self) -> &str {
        &self.name
    }

    /// All bytes of the file; tensor ranges index into this.
    pub fn data(&self) -> &[u8] {
        self.bytes.as_slice()
    }

    /// Where the tensors' data begins; offsets in the file count from here.
    pub fn data_start(&self) -> usize {
        self.data_start
    }

    /// Alignment of every tensor's offset, a power of two.
    pub fn alignment(&self) -> usize {
        self.alignment
    }

    /// The metadata.
    pub fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    /// The directory, in the file's order.
    pub fn tensors(&self) -> &[TensorInfo] {
        &self.tensors
    }

    /// The tensor with this name.
    pub fn tensor(&self, name: &str) -> Option<&TensorInfo> {
        self.index.get(name).map(|&i| &self.tensors[i])
    }

    /// The bytes of a tensor of this file.
    pub fn tensor_bytes(&self, tensor: &TensorInfo) -> &[u8] {
        &self.data()[tensor.range.clone()]
    }

    /// Asks the system to read `range` of [`Gguf::data`] ahead, without waiting.
    pub fn advise_willneed(&self, range: Range<usize>) -> Result<(), Error> {
        #[cfg(unix)]
        self.bytes
            .advise(memmap2::Advice::WillNeed, range)
            .map_err(|e| Error::io(&self.name, e))?;
        Ok(())
    }

    /// Tells the system that `range` is read in small pieces out of order: no read-ahead.
    pub fn advise_random(&self, range: Range<usize>) -> Result<(), Error> {
        #[cfg(unix)]
        self.bytes.advise(memmap2::Advice::Random, range).map_err(|e| Error::io(&self.name, e))?;
        Ok(())
    }

    /// Tells the system that `range` is read once from front to back: much read-ahead.
    pub fn advise_sequential(&self, range: Range<usize>) -> Result<(), Error> {
        #[cfg(unix)]
        self.bytes
            .advise(memmap2::Advice::Sequential, range)
            .map_err(|e| Error::io(&self.name, e))?;
        Ok(())
    }

    /// Whether the bytes are a mapped file, so that memory can be given back and read again.
    pub fn is_mapped_file(&self) -> bool {
        self.bytes.is_file()
    }

    /// As [`Gguf::release`], with the pages that `range` shares with its neighbours.
    pub fn evict(&self, range: Range<usize>) -> Result<(), Error> {
        #[cfg(unix)]
        self.bytes.evict(range).map_err(|e| Error::io(&self.name, e))?;
        Ok(())
    }

    /// Gives the memory of `range` back to the system; the next access reads the file again.
    /// Does nothing for bytes that are not a mapped file.
    pub fn release(&self, range: Range<usize>) -> Result<(), Error> {
        #[cfg(unix)]
        self.bytes.release(range).map_err(|e| Error::io(&self.name, e))?;
        Ok(())
    }
}

/// Magic and version; says what to do about the files people mistake for a GGUF.
fn check_magic(name: &str, data: &[u8], cursor: &mut Cursor<'_>) -> Result<(), Error> {
    let fail = |what: &str| Err(Error::format(name, what));
    if data.is_empty() {
        return fail("the file is empty; fetch it again");
    }
    if data.starts_with(b"version https://git-lfs") {
        return fail("this is a git-lfs pointer, not the model; run `git lfs pull`");
    }
    if data.starts_with(b"<!DOCTYPE") || data.starts_with(b"<html") {
        return fail("this is a web page, not the model; fetch the file itself");
    }
    let magic = cursor.take(4, format_args!("magic"))?;
    if magic != b"GGUF" {
        let text = magic.escape_ascii();
        return fail(&format!("not a GGUF file: it begins with \"{text}\", not \"GGUF\""));
    }
    match cursor.u32(format_args!("version"))? {
        3 => Ok(()),
        v if v.swap_bytes() <= 0xff => fail("big-endian GGUF; convert it to little-endian"),
        v => fail(&format!("GGUF version {v}, only 3 is supported; convert the model again")),
    }
}

/// The key of the alignment, and its value if absent.
pub(crate) const ALIGNMENT_KEY: &str = "general.alignment";
pub(crate) const ALIGNMENT_DEFAULT: usize = 32;

/// `n` if it is an alignment.
pub(crate) fn checked_alignment(n: u64) -> Option<usize> {
    let valid = n.is_power_of_two() && (8..=limits::ALIGNMENT_MAX).contains(&n);
    usize::try_from(n).ok().filter(|_| valid)
}

fn alignment(metadata: &Metadata) -> Result<usize, Error> {
    if !metadata.has(ALIGNMENT_KEY) {
        return Ok(ALIGNMENT_DEFAULT);
    }
    checked_alignment(metadata.u64(ALIGNMENT_KEY)?)
        .ok_or_else(|| metadata.unexpected(ALIGNMENT_KEY, "a power of two from 8 to 1048576"))
}

/// A directory record before its place is known to be sound.
struct RawTensor {
    name: String,
    dims: Vec<u64>,
    ty: TensorType,
    bytes: u64,
    offset: u64,
}

impl RawTensor {
    fn read(cursor: &mut Cursor<'_>, i: u64, n: u64) -> Result<Self, Error> {
        let name = cursor
            .str(limits::TENSOR_NAME_BYTES_MAX, format_args!("name of tensor {} of {n}", i + 1))?;
        let n_dims = cursor.u32(format_args!("number of dimensions of {name:?}"))?;
        if !(1..=limits::DIMS_MAX).contains(&n_dims) {
            let max = limits::DIMS_MAX;
            let what = format_args!("tensor {name:?} has {n_dims} dimensions, not 1 to {max}");
            return Err(cursor.error(what));
        }
        let dims = (0..n_dims)
            .map(|d| cursor.u64(format_args!("dimension {d} of {name:?}")))
            .collect::<Result<Vec<_>, _>>()?;
        let id = cursor.u32(format_args!("type of {name:?}"))?;
        let ty = TensorType::from_id(id).ok_or_else(|| {
            let known = crate::tensor_type::foreign_name(id);
            let all = TensorType::ALL.map(TensorType::name).join(", ");
            cursor.error(format_args!("tensor {name:?} has type {known}; supported are {all}"))
        })?;
        let offset = cursor.u64(format_args!("offset of {name:?}"))?;
        let bytes = tensor_bytes(ty, &dims)
            .map_err(|what| cursor.error(format_args!("tensor {name:?} {dims:?} {ty}: {what}")))?;
        Ok(Self { name: name.to_owned(), dims, ty, bytes, offset })
    }
}

/// Bytes of a tensor; refuses sizes of 0, partial blocks and overflow.
pub(crate) fn tensor_bytes(ty: TensorType, dims: &[u64]) -> Result<u64, String> {
    if dims.contains(&0) {
        return Err("a dimension is 0".to_owned());
    }
    let too_large = || "the size overflows 64 bits".to_owned();
    dims.iter().try_fold(1u64, |n, &d| n.checked_mul(d)).ok_or_else(too_large)?;
    let block = ty.block_elems() as u64;
    if !dims[0].is_multiple_of(block) {
        return Err(format!("the first dimension is not a multiple of {block}"));
    }
    let row = (dims[0] / block).checked_mul(ty.block_bytes() as u64).ok_or_else(too_large)?;
    dims[1..].iter().try_fold(row, |n, &d| n.checked_mul(d)).ok_or_else(too_large)
}

/// Turns offsets into ranges of the file; refuses misaligned, missing and shared bytes.
fn place(
    name: &str,
    raw: Vec<RawTensor>,
    data_start: usize,
    alignment: usize,
    len: usize,
) -> Result<(Vec<TensorInfo>, HashMap<String, usize>), Error> {
    let fail = |what: String| Err(Error::format(name, what));
    let mut ends = Vec::with_capacity(raw.len());
    for t in &raw {
        if !t.offset.is_multiple_of(alignment as u64) {
            let (tensor, offset) = (&t.name, t.offset);
            return fail(format!(
                "tensor {tensor:?}: offset {offset} is not a multiple of {alignment}"
            ));
        }
        let end = (data_start as u64).checked_add(t.offset).and_then(|s| s.checked_add(t.bytes));
        let Some(end) = end else {
            return fail(format!("tensor {:?}: offset {} overflows 64 bits", t.name, t.offset));
        };
        ends.push(end);
    }
    let last = ends.iter().copied().max().unwrap_or(0);
    if last > len as u64 {
        let missing = last - len as u64;
        return fail(format!(
            "truncated: {missing} bytes are missing (tensors end at byte {last}, \
             the file at {len}); fetch or write the file again"
        ));
    }
    let mut tensors = Vec::with_capacity(raw.len());
    let mut index = HashMap::with_capacity(raw.len());
    for (t, end) in raw.into_iter().zip(ends) {
        if index.insert(t.name.clone(), tensors.len()).is_some() {
            return fail(format!("tensor {:?} appears twice", t.name));
        }
        let at = |n: u64| usize::try_from(n).expect("inside the file");
        let range = at(end - t.bytes)..at(end);
        tensors.push(TensorInfo { name: t.name, dims: t.dims, ty: t.ty, range });
    }
    check_overlap(name, &tensors)?;
    Ok((tensors, index))
}

fn check_overlap(name: &str, tensors: &[TensorInfo]) -> Result<(), Error> {
    let mut order: Vec<&TensorInfo> = tensors.iter().collect();
    order.sort_by_key(|t| t.range.start);
    for pair in order.windows(2) {
        if pair[0].range.end > pair[1].range.start {
            let (a, b) = (&pair[0].name, &pair[1].name);
            return Err(Error::format(name, format!("tensors {a:?} and {b:?} overlap")));
        }
    }
    Ok(())
}
