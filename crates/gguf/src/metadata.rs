//! The metadata of a GGUF: typed look-up by key with errors that say what was found.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use crate::cursor::{Cursor, Quoted};
use crate::value::{Array, Elements, Value, ValueType};
use crate::{Bytes, Error, limits};

/// All key–value pairs of a file, in its order.
#[derive(Clone, Debug)]
pub struct Metadata {
    file: String,
    bytes: Arc<Bytes>,
    entries: Vec<Entry>,
    index: HashMap<String, usize>,
}

#[derive(Clone, Debug)]
struct Entry {
    key: String,
    ty: ValueType,
    /// The value as stored.
    range: Range<usize>,
}

impl Metadata {
    /// Reads and checks `n` entries at the cursor, which runs over `bytes`.
    pub(crate) fn read(
        file: &str,
        bytes: &Arc<Bytes>,
        cursor: &mut Cursor<'_>,
        n: u64,
    ) -> Result<Self, Error> {
        let mut all = Self {
            file: file.to_owned(),
            bytes: Arc::clone(bytes),
            entries: Vec::new(),
            index: HashMap::new(),
        };
        for i in 0..n {
            let key =
                cursor.str(limits::KEY_BYTES_MAX, format_args!("metadata key {} of {n}", i + 1))?;
            let shown = Quoted(key);
            let id = cursor.u32(format_args!("type of {shown}"))?;
            let ty = ValueType::from_id(id).ok_or_else(|| {
                cursor.error(format_args!("metadata key {shown} has unknown value type {id}"))
            })?;
            let start = cursor.pos();
            check_value(cursor, shown, ty)?;
            if all.index.insert(key.to_owned(), all.entries.len()).is_some() {
                return Err(cursor.error(format_args!("metadata key {shown} appears twice")));
            }
            all.entries.push(Entry { key: key.to_owned(), ty, range: start..cursor.pos() });
        }
        Ok(all)
    }

    /// Number of keys.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Every key with its value, in the file's order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, Value<'_>)> {
        self.entries.iter().map(|e| (e.key.as_str(), self.value(e)))
    }

    /// Whether the key is present.
    pub fn has(&self, key: &str) -> bool {
        self.index.contains_key(key)
    }

    /// The value of a key.
    pub fn get(&self, key: &str) -> Option<Value<'_>> {
        self.index.get(key).map(|&i| self.value(&self.entries[i]))
    }

    fn value(&self, entry: &Entry) -> Value<'_> {
        Value::decode(entry.ty, &self.bytes.as_slice()[entry.range.clone()]).0
    }

    /// The error for a key that holds something else than `expected`; for checks of the caller.
    pub fn unexpected(&self, key: &str, expected: &'static str) -> Error {
        let found = match self.get(key) {
            None => "nothing".to_owned(),
            Some(value @ Value::Array(_)) => format!("array {value}"),
            Some(value) => format!("{} {value}", value.ty()),
        };
        Error::Key { file: self.file.clone(), key: key.to_owned(), found, expected }
    }

    fn typed<'a, T>(
        &'a self,
        key: &str,
        expected: &'static str,
        convert: impl FnOnce(Value<'a>) -> Option<T>,
    ) -> Result<T, Error> {
        self.get(key).and_then(convert).ok_or_else(|| self.unexpected(key, expected))
    }

    /// A string.
    pub fn str(&self, key: &str) -> Result<&str, Error> {
        self.typed(key, "a string", |v| v.as_str())
    }

    /// An integer of any stored width that fits.
    pub fn u32(&self, key: &str) -> Result<u32, Error> {
        self.typed(key, "an integer from 0 to 4294967295", |v| v.as_int()?.try_into().ok())
    }

    /// An integer of any stored width that fits.
    pub fn u64(&self, key: &str) -> Result<u64, Error> {
        self.typed(key, "an integer from 0 to 2^64-1", |v| v.as_int()?.try_into().ok())
    }

    /// A float; f64 is rounded.
    pub fn f32(&self, key: &str) -> Result<f32, Error> {
        self.typed(key, "a float", |v| v.as_f32())
    }

    /// A truth value.
    pub fn bool(&self, key: &str) -> Result<bool, Error> {
        self.typed(key, "a bool", |v| if let Value::Bool(b) = v { Some(b) } else { None })
    }

    /// An array of integers of any stored width that fit.
    pub fn i32s(&self, key: &str) -> Result<Vec<i32>, Error> {
        self.typed(key, "an array of 32-bit integers", |v| {
            array(v)?.iter().map(|v| v.as_int()?.try_into().ok()).collect()
        })
    }

    /// An array of integers of any stored width that fit.
    pub fn u32s(&self, key: &str) -> Result<Vec<u32>, Error> {
        self.typed(key, "an array of integers from 0 to 4294967295", |v| {
            array(v)?.iter().map(|v| v.as_int()?.try_into().ok()).collect()
        })
    }

    /// An array of floats; f64 is rounded.
    pub fn f32s(&self, key: &str) -> Result<Vec<f32>, Error> {
        self.typed(key, "an array of floats", |v| array(v)?.iter().map(|v| v.as_f32()).collect())
    }

    /// An array of strings, decoded while it is walked.
    pub fn strs(&self, key: &str) -> Result<Strs<'_>, Error> {
        self.typed(key, "an array of strings", |v| {
            let array = array(v)?;
            (array.elem() == ValueType::Str || array.is_empty()).then(|| Strs(array.iter()))
        })
    }
}

fn array(value: Value<'_>) -> Option<Array<'_>> {
    if let Value::Array(a) = value { Some(a) } else { None }
}

/// Strings of an array, in order.
#[derive(Clone, Debug)]
pub struct Strs<'a>(Elements<'a>);

impl<'a> Iterator for Strs<'a> {
    type Item = &'a str;

    fn next(&mut self) -> Option<&'a str> {
        self.0.next()?.as_str()
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.0.size_hint()
    }
}

impl ExactSizeIterator for Strs<'_> {}

/// Walks over one value and checks all that `Value::decode` relies on.
fn check_value(cursor: &mut Cursor<'_>, key: Quoted<'_>, ty: ValueType) -> Result<(), Error> {
    match ty {
        ValueType::Array => {
            let id = cursor.u32(format_args!("element type of {key}"))?;
            let elem = match ValueType::from_id(id) {
                Some(ValueType::Array) => {
                    let what = "is an array of arrays, which no key of a model needs";
                    return Err(cursor.error(format_args!("metadata key {key} {what}")));
                }
                Some(elem) => elem,
                None => {
                    let what = format_args!("array {key} has unknown element type {id}");
                    return Err(cursor.error(what));
                }
            };
            let n = cursor.count(limits::ARRAY_MAX, format_args!("length of array {key}"))?;
            check_elements(cursor, key, elem, n)
        }
        elem => check_elements(cursor, key, elem, 1),
    }
}

fn check_elements(
    cursor: &mut Cursor<'_>,
    key: Quoted<'_>,
    elem: ValueType,
    n: u64,
) -> Result<(), Error> {
    let Some(size) = elem.bytes() else {
        for i in 0..n {
            cursor.str(limits::STRING_BYTES_MAX, format_args!("string {i} of {key}"))?;
        }
        return Ok(());
    };
    // Cannot overflow: n is at most ARRAY_MAX and a value has at most 8 bytes.
    let bytes = cursor.take(n * size as u64, format_args!("value of {key}"))?;
    if elem == ValueType::Bool
        && let Some(bad) = bytes.iter().find(|&&b| b > 1)
    {
        return Err(cursor.error(format_args!("bool in {key} is {bad}, not 0 or 1")));
    }
    Ok(())
}
