//! Placeholder for the crate being written.

mod acts;
mod cores;
mod dot;
mod matmul;
mod pool;
pub mod speed;
mod synthetic;
mod vec_ops;

pub use dot::Isa;
pub use pool::Pool;
