//! Bytes to typed tensors and back: the GGUF container and the block formats, without any knowledge of a model.

mod error;
mod tensor_type;

pub use error::Error;
pub use tensor_type::TensorType;

/// An open GGUF file.
#[derive(Debug)]
pub struct Gguf {
    bytes: Vec<u8>,
}

impl Gguf {
    /// All bytes of the file; tensor ranges index into this.
    pub fn data(&self) -> &[u8] {
        &self.bytes
    }
}
