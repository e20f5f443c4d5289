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
/// Properties of one object, and alternatives of one schema.
pub const SCHEMA_WIDTH_MAX: usize = 1_000;
/// Lengths and counts that a schema may demand at least.
pub const SCHEMA_COUNT_MAX: u64 = 1_000_000;
/// Magnitude of the bounds of numbers; beyond it the compiler's arithmetic ends.
pub const SCHEMA_NUMBER_MAX: f64 = 9_007_199_254_740_992.0;
/// Least common multiple that the steps of numbers (`multipleOf`) may have, in units of their last
/// digit: the compiler makes a state for each remainder.
pub const SCHEMA_STEPS_MAX: f64 = 1_000.0;
/// Patterns and formats that one string may have to match at once.
pub const SCHEMA_PATTERNS_MAX: u64 = 4;
/// Patterns for keys of one object: each is compared with each.
pub const SCHEMA_KEY_PATTERNS_MAX: usize = 16;
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
/// Items that the parser may hold at one place of the text; a thousand optional properties take
/// four thousand.
pub const PARSER_ITEMS_MAX: usize = 8_000;
/// Items that the parser may make for one mask, 20 000 in a millisecond.
pub const MASK_ITEMS_MAX: usize = 200_000;
/// Symbols in one grammar.
pub const GRAMMAR_SYMBOLS_MAX: usize = 200_000;
/// White space that may stand between two tags of calls which the model opened by itself.
pub const TAG_SPACE_MAX: usize = 32;
/// Bytes of one token that the trie can hold.
pub const TOKEN_BYTES_MAX: usize = 1_000;
/// Bytes of all tokens together that the trie can hold.
pub const TRIE_BYTES_MAX: usize = 4_000_000;
