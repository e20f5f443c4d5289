//! How much a file may claim. Every count of a file is compared with its limit, and with the bytes
//! that are left, before anything is reserved for it.

/// Metadata entries of a GGUF.
pub const METADATA_MAX: u64 = 1 << 16;
/// Bytes of a metadata key (the format's own limit).
pub const KEY_BYTES_MAX: u64 = (1 << 16) - 1;
/// Bytes of one string: a metadata value or an element of an array of strings.
pub const STRING_BYTES_MAX: u64 = 1 << 26;
/// Elements of a metadata array.
pub const ARRAY_MAX: u64 = 1 << 28;
/// Tensors of a file.
pub const TENSORS_MAX: u64 = 1 << 16;
/// Bytes of a tensor's name (ggml itself stops at 63).
pub const TENSOR_NAME_BYTES_MAX: u64 = 255;
/// Dimensions of a tensor.
pub const DIMS_MAX: u32 = 4;
/// Largest `general.alignment`; the smallest is 8.
pub const ALIGNMENT_MAX: u64 = 1 << 20;
/// Bytes of a safetensors header (the format's own limit).
pub const SAFETENSORS_HEADER_BYTES_MAX: u64 = 100_000_000;
