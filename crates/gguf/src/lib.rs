//! Bytes to typed tensors and back: the GGUF container and the block formats, without any
//! knowledge of a model.

mod container;
mod cursor;
mod error;
pub mod limits;
mod map;
mod metadata;
mod tensor_type;
mod value;

pub use container::{Gguf, TensorInfo};
pub use error::Error;
pub use map::{Bytes, Memory};
pub use metadata::{Metadata, Strs};
pub use tensor_type::TensorType;
pub use value::{Array, Elements, Value, ValueType};
