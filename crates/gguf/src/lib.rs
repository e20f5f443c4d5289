//! Bytes to typed tensors and back: the GGUF container and the block formats, without any
//! knowledge of a model.
//!
//! [`Gguf::open`] maps a file and checks all of its structure at once: afterwards every tensor's
//! range lies inside [`Gguf::data`], no two overlap, and every metadata value can be decoded.
//! Nothing of the tensors' data is read. [`Metadata`] answers typed questions and says, when it
//! cannot, what the file holds instead. Files are untrusted: a length is compared with its limit
//! ([`limits`]) and with the bytes that are left before anything is reserved for it, and damage
//! is an [`Error`] of one line, never a panic. A wrong length given by the *caller* is a panic.
//!
//! [`TensorType`] lists the formats of the published files, [`mod@block`] shows their blocks in
//! place, [`tables`] holds every number table once, [`dequantize_row`] decodes bit-exactly like
//! the reference decoders, and [`quantize_row`] encodes with the least weighted squared error
//! that a bounded search finds. Rows are independent, so callers spread them over threads.
//!
//! [`mod@write`] lays out and writes files, to a stream or into memory. [`mod@safetensors`] reads
//! the official checkpoint, whose number formats are in [`fp8`].
//!
//! Invariant: `map` is the only module with `unsafe` code.
#![deny(unsafe_code)]

pub mod block;
mod container;
mod cursor;
pub mod dequant;
mod error;
pub mod fp8;
pub mod limits;
#[expect(unsafe_code, reason = "mapping a file, giving its pages back")]
mod map;
mod metadata;
pub mod quant;
pub mod safetensors;
pub mod tables;
mod tensor_type;
mod value;
pub mod write;

pub use container::{Gguf, TensorInfo};
pub use dequant::dequantize_row;
pub use error::Error;
pub use map::{Bytes, Memory};
pub use metadata::{Metadata, Strs};
pub use quant::{Unencodable, quantize_row};
pub use tensor_type::TensorType;
pub use value::{Array, Elements, Value, ValueType};
