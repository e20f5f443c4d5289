//! Bytes to typed tensors and back: the GGUF container and the block formats, without any
//! knowledge of a model.

pub mod block;
mod container;
mod cursor;
pub mod dequant;
mod error;
pub mod fp8;
pub mod limits;
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
