//! Every limit of this crate.
//!
//! A schema comes from a client: without these, a few kilobytes of it can ask for gigabytes.

use std::time::Duration;

/// Bytes of one schema, written without white space.
pub const SCHEMA_BYTES_MAX: usize = 256 << 10;
/// Nesting of a schema, counted in arrays and objects of its JSON.
pub const SCHEMA_DEPTH_MAX: usize = 100;
/// Nodes of a schema once its combinations (`allOf`, `anyOf`, references beside other keywords) are
/// multiplied out.
pub const SCHEMA_NODES_MAX: u64 = 20_000;
/// Bytes of one regular expression.
pub const PATTERN_BYTES_MAX: usize = 8 << 10;
/// Declared functions in one form.
pub const FUNCTIONS_MAX: usize = 512;
/// Parameters of one function that may come in any order; more must come as declared.
pub const FREE_ORDER_MAX: usize = 64;
/// Time for one compilation; it is refused afterwards.
pub const COMPILE_TIME_MAX: Duration = Duration::from_secs(5);
/// Compilations that outlived their time and still run; more are refused at once.
pub const OVERDUE_MAX: usize = 2;
/// Stack of a compiling thread, in bytes: the compiler recurses over nesting and over long lists.
pub const COMPILE_STACK: usize = 256 << 20;
/// Compiled grammars that are kept.
pub const CACHED_MAX: usize = 32;
/// States that the lexer of one grammar may have; 1 to 2 kB each.
pub const LEXER_STATES_MAX: usize = 50_000;
/// Symbols in one grammar.
pub const GRAMMAR_SYMBOLS_MAX: usize = 200_000;
/// White space that may stand between two tags of calls which the model opened by itself.
pub const TAG_SPACE_MAX: usize = 32;
