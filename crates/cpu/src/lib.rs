//! Placeholder for the crate being written.

mod acts;
mod cores;
mod dot;
mod matmul;
mod pool;
mod vec_ops;

pub use pool::Pool;
