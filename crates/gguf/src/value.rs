//! Metadata values: numbers, strings and flat arrays of them, borrowed from the file's bytes.

use std::fmt;

use crate::cursor::Quoted;

/// Type of a metadata value, by its id in the file (§5.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
#[expect(missing_docs, reason = "the names are the types")]
pub enum ValueType {
    U8 = 0,
    I8 = 1,
    U16 = 2,
    I16 = 3,
    U32 = 4,
    I32 = 5,
    F32 = 6,
    Bool = 7,
    Str = 8,
    Array = 9,
    U64 = 10,
    I64 = 11,
    F64 = 12,
}

impl ValueType {
    const ALL: [Self; 13] = [
        Self::U8,
        Self::I8,
        Self::U16,
        Self::I16,
        Self::U32,
        Self::I32,
        Self::F32,
        Self::Bool,
        Self::Str,
        Self::Array,
        Self::U64,
        Self::I64,
        Self::F64,
    ];

    /// The type with this id.
    pub fn from_id(id: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|t| t.id() == id)
    }

    /// The id stored in the file.
    pub const fn id(self) -> u32 {
        self as u32
    }

    /// Bytes of one value; `None` for strings and arrays.
    pub const fn bytes(self) -> Option<usize> {
        match self {
            Self::U8 | Self::I8 | Self::Bool => Some(1),
            Self::U16 | Self::I16 => Some(2),
            Self::U32 | Self::I32 | Self::F32 => Some(4),
            Self::U64 | Self::I64 | Self::F64 => Some(8),
            Self::Str | Self::Array => None,
        }
    }
}

impl fmt::Display for ValueType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::U8 => "u8",
            Self::I8 => "i8",
            Self::U16 => "u16",
            Self::I16 => "i16",
            Self::U32 => "u32",
            Self::I32 => "i32",
            Self::F32 => "f32",
            Self::Bool => "bool",
            Self::Str => "string",
            Self::Array => "array",
            Self::U64 => "u64",
            Self::I64 => "i64",
            Self::F64 => "f64",
        })
    }
}

/// One metadata value.
#[derive(Clone, Copy, Debug, PartialEq)]
#[expect(missing_docs, reason = "the names are the types")]
pub enum Value<'a> {
    U8(u8),
    I8(i8),
    U16(u16),
    I16(i16),
    U32(u32),
    I32(i32),
    F32(f32),
    Bool(bool),
    Str(&'a str),
    Array(Array<'a>),
    U64(u64),
    I64(i64),
    F64(f64),
}

impl<'a> Value<'a> {
    /// Its type.
    pub const fn ty(&self) -> ValueType {
        match self {
            Self::U8(_) => ValueType::U8,
            Self::I8(_) => ValueType::I8,
            Self::U16(_) => ValueType::U16,
            Self::I16(_) => ValueType::I16,
            Self::U32(_) => ValueType::U32,
            Self::I32(_) => ValueType::I32,
            Self::F32(_) => ValueType::F32,
            Self::Bool(_) => ValueType::Bool,
            Self::Str(_) => ValueType::Str,
            Self::Array(_) => ValueType::Array,
            Self::U64(_) => ValueType::U64,
            Self::I64(_) => ValueType::I64,
            Self::F64(_) => ValueType::F64,
        }
    }

    /// An integer of any width.
    pub fn as_int(&self) -> Option<i128> {
        Some(match *self {
            Self::U8(v) => v.into(),
            Self::I8(v) => v.into(),
            Self::U16(v) => v.into(),
            Self::I16(v) => v.into(),
            Self::U32(v) => v.into(),
            Self::I32(v) => v.into(),
            Self::U64(v) => v.into(),
            Self::I64(v) => v.into(),
            Self::F32(_) | Self::F64(_) | Self::Bool(_) | Self::Str(_) | Self::Array(_) => {
                return None;
            }
        })
    }

    /// A float of either width, as f32.
    pub fn as_f32(&self) -> Option<f32> {
        match *self {
            Self::F32(v) => Some(v),
            #[expect(clippy::cast_possible_truncation, reason = "rounding to f32 is the request")]
            Self::F64(v) => Some(v as f32),
            _ => None,
        }
    }

    /// A string.
    pub fn as_str(&self) -> Option<&'a str> {
        if let Self::Str(s) = *self { Some(s) } else { None }
    }

    /// Appends the value as it is stored, without its type.
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        match *self {
            Self::U8(v) => out.push(v),
            Self::I8(v) => out.extend(v.to_le_bytes()),
            Self::U16(v) => out.extend(v.to_le_bytes()),
            Self::I16(v) => out.extend(v.to_le_bytes()),
            Self::U32(v) => out.extend(v.to_le_bytes()),
            Self::I32(v) => out.extend(v.to_le_bytes()),
            Self::F32(v) => out.extend(v.to_le_bytes()),
            Self::Bool(v) => out.push(v.into()),
            Self::U64(v) => out.extend(v.to_le_bytes()),
            Self::I64(v) => out.extend(v.to_le_bytes()),
            Self::F64(v) => out.extend(v.to_le_bytes()),
            Self::Str(s) => {
                out.extend((s.len() as u64).to_le_bytes());
                out.extend(s.as_bytes());
            }
            Self::Array(a) => {
                out.extend(a.elem.id().to_le_bytes());
                out.extend((a.len as u64).to_le_bytes());
                out.extend(a.bytes);
            }
        }
    }

    /// Decodes one value of type `ty` at the start of `bytes`, which were checked when the file
    /// was opened; returns it with the bytes it took.
    pub(crate) fn decode(ty: ValueType, bytes: &'a [u8]) -> (Self, usize) {
        fn le<const N: usize>(bytes: &[u8]) -> [u8; N] {
            *bytes.first_chunk().expect("checked when the file was opened")
        }
        let value = match ty {
            ValueType::U8 => Self::U8(bytes[0]),
            ValueType::I8 => Self::I8(i8::from_le_bytes(le(bytes))),
            ValueType::U16 => Self::U16(u16::from_le_bytes(le(bytes))),
            ValueType::I16 => Self::I16(i16::from_le_bytes(le(bytes))),
            ValueType::U32 => Self::U32(u32::from_le_bytes(le(bytes))),
            ValueType::I32 => Self::I32(i32::from_le_bytes(le(bytes))),
            ValueType::F32 => Self::F32(f32::from_le_bytes(le(bytes))),
            ValueType::Bool => Self::Bool(bytes[0] != 0),
            ValueType::U64 => Self::U64(u64::from_le_bytes(le(bytes))),
            ValueType::I64 => Self::I64(i64::from_le_bytes(le(bytes))),
            ValueType::F64 => Self::F64(f64::from_le_bytes(le(bytes))),
            ValueType::Str => {
                let len = usize::try_from(u64::from_le_bytes(le(bytes)));
                let end = 8 + len.expect("checked when the file was opened");
                let text = std::str::from_utf8(&bytes[8..end]);
                return (Self::Str(text.expect("checked when the file was opened")), end);
            }
            ValueType::Array => {
                let elem = ValueType::from_id(u32::from_le_bytes(le(bytes)));
                let len = usize::try_from(u64::from_le_bytes(le(&bytes[4..])));
                let elem = elem.expect("checked when the file was opened");
                let len = len.expect("checked when the file was opened");
                return (Self::Array(Array { elem, len, bytes: &bytes[12..] }), bytes.len());
            }
        };
        (value, ty.bytes().unwrap_or(bytes.len()))
    }
}

impl fmt::Display for Value<'_> {
    /// One short line: long strings and arrays show their beginning and length.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::U8(v) => v.fmt(f),
            Self::I8(v) => v.fmt(f),
            Self::U16(v) => v.fmt(f),
            Self::I16(v) => v.fmt(f),
            Self::U32(v) => v.fmt(f),
            Self::I32(v) => v.fmt(f),
            Self::F32(v) => v.fmt(f),
            Self::Bool(v) => v.fmt(f),
            Self::U64(v) => v.fmt(f),
            Self::I64(v) => v.fmt(f),
            Self::F64(v) => v.fmt(f),
            Self::Str(s) => Quoted(s).fmt(f),
            Self::Array(a) => a.fmt(f),
        }
    }
}

/// A flat array; elements are decoded when asked for.
#[derive(Clone, Copy, PartialEq)]
pub struct Array<'a> {
    elem: ValueType,
    len: usize,
    /// The elements as stored.
    bytes: &'a [u8],
}

impl<'a> Array<'a> {
    /// Type of the elements.
    pub const fn elem(&self) -> ValueType {
        self.elem
    }

    /// Number of elements.
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whether there is none.
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The elements in order.
    pub fn iter(&self) -> Elements<'a> {
        Elements { elem: self.elem, left: self.len, bytes: self.bytes }
    }
}

impl<'a> IntoIterator for &Array<'a> {
    type Item = Value<'a>;
    type IntoIter = Elements<'a>;

    fn into_iter(self) -> Elements<'a> {
        self.iter()
    }
}

impl fmt::Debug for Array<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl fmt::Display for Array<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN: usize = 6;
        write!(f, "[{}; {}] = [", self.elem, self.len)?;
        for (i, value) in self.iter().take(SHOWN).enumerate() {
            write!(f, "{}{value}", if i == 0 { "" } else { ", " })?;
        }
        f.write_str(if self.len > SHOWN { ", …]" } else { "]" })
    }
}

/// Iterator over the elements of an [`Array`].
#[derive(Clone, Debug)]
pub struct Elements<'a> {
    elem: ValueType,
    left: usize,
    bytes: &'a [u8],
}

impl<'a> Iterator for Elements<'a> {
    type Item = Value<'a>;

    fn next(&mut self) -> Option<Value<'a>> {
        self.left = self.left.checked_sub(1)?;
        let (value, taken) = Value::decode(self.elem, self.bytes);
        self.bytes = &self.bytes[taken..];
        Some(value)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left, Some(self.left))
    }
}

impl ExactSizeIterator for Elements<'_> {}
