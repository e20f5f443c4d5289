//! Writes GGUF files: a [`Draft`] collects metadata and tensor shapes, a [`Layout`] fixes every
//! byte's place, then the tensors follow one by one, or in any order into memory.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use crate::container::{ALIGNMENT_DEFAULT, ALIGNMENT_KEY, TensorInfo, tensor_bytes};
use crate::value::Value;
use crate::{Error, Gguf, Memory, TensorType, ValueType, limits};

/// Metadata and tensors of a file to be written, in order.
#[derive(Clone, Debug)]
pub struct Draft {
    file: String,
    /// Key, and type and value as stored.
    entries: Vec<(String, Vec<u8>)>,
    keys: HashMap<String, usize>,
    tensors: Vec<(String, Vec<u64>, TensorType, u64)>,
    names: HashMap<String, usize>,
    alignment: usize,
}

impl Draft {
    /// An empty draft; `file` stands for the path in messages.
    pub fn new(file: &str) -> Self {
        Self {
            file: file.to_owned(),
            entries: Vec::new(),
            keys: HashMap::new(),
            tensors: Vec::new(),
            names: HashMap::new(),
            alignment: ALIGNMENT_DEFAULT,
        }
    }

    fn fail<T>(&self, what: String) -> Result<T, Error> {
        Err(Error::format(&self.file, what))
    }

    fn put(&mut self, key: &str, ty: ValueType, encode: impl FnOnce(&mut Vec<u8>)) {
        let mut bytes = ty.id().to_le_bytes().to_vec();
        encode(&mut bytes);
        if let Some(&i) = self.keys.get(key) {
            self.entries[i].1 = bytes;
        } else {
            self.keys.insert(key.to_owned(), self.entries.len());
            self.entries.push((key.to_owned(), bytes));
        }
    }

    fn put_array(&mut self, key: &str, elem: ValueType, n: usize, body: impl FnOnce(&mut Vec<u8>)) {
        self.put(key, ValueType::Array, |out| {
            out.extend(elem.id().to_le_bytes());
            out.extend((n as u64).to_le_bytes());
            body(out);
        });
    }

    /// Sets a key to a value of any type, for example one of another file. A key that is there
    /// already keeps its place. `general.alignment` takes effect.
    pub fn set(&mut self, key: &str, value: Value<'_>) -> Result<(), Error> {
        if key.len() as u64 > limits::KEY_BYTES_MAX {
            return self.fail(format!("a metadata key has {} bytes", key.len()));
        }
        if key == ALIGNMENT_KEY {
            let n = value.as_int().and_then(|n| u64::try_from(n).ok());
            let Some(n) = n.and_then(crate::container::checked_alignment) else {
                return self.fail(format!("{key} is {value}, not a power of two from 8"));
            };
            self.alignment = n;
        }
        self.put(key, value.ty(), |out| value.encode(out));
        Ok(())
    }

    /// Sets every key of another file.
    pub fn set_all(&mut self, metadata: &crate::Metadata) -> Result<(), Error> {
        metadata.iter().try_for_each(|(key, value)| self.set(key, value))
    }

    /// Sets a key to an array of strings.
    pub fn set_strs<'a>(&mut self, key: &str, values: impl ExactSizeIterator<Item = &'a str>) {
        self.put_array(key, ValueType::Str, values.len(), |out| {
            values.for_each(|v| Value::Str(v).encode(out));
        });
    }

    /// Sets a key to an array of i32.
    pub fn set_i32s(&mut self, key: &str, values: &[i32]) {
        let body = |out: &mut Vec<u8>| out.extend(values.iter().flat_map(|v| v.to_le_bytes()));
        self.put_array(key, ValueType::I32, values.len(), body);
    }

    /// Sets a key to an array of u32.
    pub fn set_u32s(&mut self, key: &str, values: &[u32]) {
        let body = |out: &mut Vec<u8>| out.extend(values.iter().flat_map(|v| v.to_le_bytes()));
        self.put_array(key, ValueType::U32, values.len(), body);
    }

    /// Sets a key to an array of f32.
    pub fn set_f32s(&mut self, key: &str, values: &[f32]) {
        let body = |out: &mut Vec<u8>| out.extend(values.iter().flat_map(|v| v.to_le_bytes()));
        self.put_array(key, ValueType::F32, values.len(), body);
    }

    /// Adds a tensor; `dims` as in [`TensorInfo::dims`].
    pub fn tensor(&mut self, name: &str, dims: &[u64], ty: TensorType) -> Result<(), Error> {
        let n = dims.len();
        if name.len() as u64 > limits::TENSOR_NAME_BYTES_MAX {
            return self.fail(format!("tensor {name:?}: the name has {} bytes", name.len()));
        }
        if n == 0 || n > limits::DIMS_MAX as usize {
            return self.fail(format!("tensor {name:?} has {n} dimensions"));
        }
        let bytes = match tensor_bytes(ty, dims) {
            Ok(bytes) => bytes,
            Err(what) => return self.fail(format!("tensor {name:?} {dims:?} {ty}: {what}")),
        };
        if self.names.insert(name.to_owned(), self.tensors.len()).is_some() {
            return self.fail(format!("tensor {name:?} is added twice"));
        }
        self.tensors.push((name.to_owned(), dims.to_vec(), ty, bytes));
        Ok(())
    }

    /// Fixes every byte's place.
    pub fn layout(self) -> Result<Layout, Error> {
        let mut header = b"GGUF\x03\0\0\0".to_vec();
        header.extend((self.tensors.len() as u64).to_le_bytes());
        header.extend((self.entries.len() as u64).to_le_bytes());
        for (key, value) in &self.entries {
            Value::Str(key).encode(&mut header);
            header.extend(value);
        }
        let align = self.alignment as u64;
        let mut offset = 0u64;
        let mut offsets = Vec::with_capacity(self.tensors.len());
        for (name, dims, ty, bytes) in &self.tensors {
            Value::Str(name).encode(&mut header);
            let n_dims = u32::try_from(dims.len()).expect("checked when added");
            header.extend(n_dims.to_le_bytes());
            header.extend(dims.iter().flat_map(|d| d.to_le_bytes()));
            header.extend(ty.id().to_le_bytes());
            header.extend(offset.to_le_bytes());
            offsets.push(offset);
            let end =
                offset.checked_add(*bytes).and_then(|end| end.checked_next_multiple_of(align));
            match end {
                Some(end) => offset = end,
                None => return self.fail("the tensors are larger than 64 bits count".to_owned()),
            }
        }
        header.resize(header.len().next_multiple_of(self.alignment), 0);
        let size = usize::try_from(offset).ok().and_then(|n| n.checked_add(header.len()));
        let Some(file_bytes) = size else {
            return self.fail("the file is larger than this machine can address".to_owned());
        };
        let tensors = self.tensors.into_iter().zip(offsets).map(|((name, dims, ty, bytes), at)| {
            let place = |n: u64| header.len() + usize::try_from(n).expect("inside the file");
            TensorInfo { name, dims, ty, range: place(at)..place(at + bytes) }
        });
        let tensors = tensors.collect();
        Ok(Layout { file: self.file, header, tensors, file_bytes })
    }
}

/// A file whose metadata and places are fixed; only the tensors' bytes are missing.
#[derive(Clone, Debug)]
pub struct Layout {
    file: String,
    /// Everything before the tensors' data.
    header: Vec<u8>,
    tensors: Vec<TensorInfo>,
    file_bytes: usize,
}

impl Layout {
    /// All bytes before the tensors' data.
    pub fn header(&self) -> &[u8] {
        &self.header
    }

    /// The tensors with their places in the file, in order.
    pub fn tensors(&self) -> &[TensorInfo] {
        &self.tensors
    }

    /// Size of the file.
    pub fn file_bytes(&self) -> usize {
        self.file_bytes
    }

    /// Begins to write the file.
    pub fn write<W: Write>(self, mut out: W) -> Result<Writer<W>, Error> {
        out.write_all(&self.header).map_err(|e| Error::io(&self.file, e))?;
        let pos = self.header.len();
        Ok(Writer { layout: self, out, pos, current: 0 })
    }

    /// Builds the file in memory: `fill` gets every tensor with its zeroed bytes.
    pub fn in_memory(self, mut fill: impl FnMut(&TensorInfo, &mut [u8])) -> Result<Gguf, Error> {
        let mut memory = Memory::zeroed(self.file_bytes).map_err(|e| Error::io(&self.file, e))?;
        let bytes = memory.as_mut_slice();
        bytes[..self.header.len()].copy_from_slice(&self.header);
        for tensor in &self.tensors {
            fill(tensor, &mut bytes[tensor.range.clone()]);
        }
        let bytes = memory.freeze().map_err(|e| Error::io(&self.file, e))?;
        Gguf::from_bytes(&self.file, bytes)
    }
}

/// A file being written, front to back.
#[derive(Debug)]
pub struct Writer<W> {
    layout: Layout,
    out: W,
    /// Bytes written.
    pos: usize,
    /// The tensor being written.
    current: usize,
}

impl<W: Write> Writer<W> {
    /// Appends to a tensor. Tensors come in the layout's order, each in as many pieces as wanted.
    ///
    /// # Panics
    /// If another tensor is next, or this one gets more bytes than it has.
    pub fn write(&mut self, tensor: &str, bytes: &[u8]) -> Result<(), Error> {
        let next = self.layout.tensors.get(self.current);
        let Some(next) = next.filter(|t| t.name == tensor) else {
            panic!("{tensor:?} is written, {:?} is next", next.map(|t| &t.name));
        };
        let start = self.pos.max(next.range.start);
        let left = next.range.end - start;
        assert!(bytes.len() <= left, "{tensor:?}: {} bytes, {left} are left", bytes.len());
        if bytes.len() == left {
            self.current += 1;
        }
        self.pad(start)?;
        self.put(bytes)
    }

    fn put(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.pos += bytes.len();
        self.out.write_all(bytes).map_err(|e| Error::io(&self.layout.file, e))
    }

    /// Zeros up to a position, less than one alignment away.
    fn pad(&mut self, to: usize) -> Result<(), Error> {
        self.put(&vec![0; to - self.pos])
    }

    /// Ends the file and returns the flushed sink.
    ///
    /// # Panics
    /// If a tensor is not complete.
    pub fn finish(mut self) -> Result<W, Error> {
        let next = self.layout.tensors.get(self.current);
        assert!(next.is_none(), "{:?} is not complete", next.map(|t| &t.name));
        self.pad(self.layout.file_bytes)?;
        self.out.flush().map_err(|e| Error::io(&self.layout.file, e))?;
        Ok(self.out)
    }
}

/// Writes a file under a temporary name (`path` with `.part` appended) and renames it when `write`
/// has succeeded and the bytes are on the disk; otherwise removes it. A link is followed; what is no
/// file, such as a pipe, cannot be replaced and takes the bytes as they come.
pub fn replace_file<E: From<Error>>(
    path: &Path,
    write: impl FnOnce(&mut File) -> Result<(), E>,
) -> Result<(), E> {
    let failed = |path: &Path, e: io::Error| E::from(Error::io(&path.display().to_string(), e));
    let target = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    if fs::metadata(&target).is_ok_and(|known| !known.is_file()) {
        let open = File::options().write(true).open(&target);
        return write(&mut open.map_err(|e| failed(path, e))?);
    }
    let mut part = target.as_os_str().to_owned();
    part.push(".part");
    let part = PathBuf::from(part);
    let mut file = File::create(&part).map_err(|e| failed(path, e))?;
    let result = write(&mut file)
        .and_then(|()| file.sync_all().map_err(|e| failed(path, e)))
        .and_then(|()| fs::rename(&part, &target).map_err(|e| failed(path, e)));
    if result.is_err() {
        // The first error is the one to report.
        let _ = fs::remove_file(&part);
    }
    result
}
