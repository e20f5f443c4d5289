//! After the first steps a token allocates nothing: not for activations, lists of products,
//! threads or choices.
//!
//! Contains `unsafe`: a counting allocator.

mod common;

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

use common::{quant, runner, some_tokens};
use ds4_model::{Numerics, Runner, Span, TokenId};

/// The system's allocator, counting.
struct Counting;

static CALLS: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call is passed on to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        CALLS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller's promise is the one that is needed.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(ptr, layout) }
    }

    unsafe fn realloc(&self, ptr: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        CALLS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: as above.
        unsafe { System.realloc(ptr, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Allocations of appending these tokens in spans of `chunk`.
fn count(r: &mut dyn Runner, span: Span<'_>, chunk: usize, logits: &mut Vec<f32>) -> usize {
    let before = CALLS.load(Ordering::Relaxed);
    for tokens in span.tokens.chunks(chunk) {
        r.forward(&[Span { tokens, ..span }], logits).expect("a valid span");
    }
    CALLS.load(Ordering::Relaxed) - before
}

#[test]
fn a_token_allocates_nothing() {
    let mut r = runner(&quant(), Numerics::PROFILE_G);
    let seq = r.open_seq(400).expect("a small context");
    let tokens = some_tokens(64, r.dims().n_vocab, 1);
    let span = Span { seq, tokens: &tokens, n_logits: 1 };
    let mut logits = Vec::new();
    let mut drafts = [TokenId(0); 3];
    // Steps of every kind once.
    for chunk in [64, 1, 4] {
        count(&mut r, span, chunk, &mut logits);
        r.draft(seq, TokenId(1), &mut drafts).expect("a valid token");
    }
    assert_eq!(count(&mut r, span, 1, &mut logits), 0, "decode");
    assert_eq!(count(&mut r, span, 4, &mut logits), 0, "verify");
    let before = CALLS.load(Ordering::Relaxed);
    r.draft(seq, TokenId(1), &mut drafts).expect("a valid token");
    assert_eq!(CALLS.load(Ordering::Relaxed) - before, 0, "draft");
}
