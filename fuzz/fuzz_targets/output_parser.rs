//! Any bytes as a model's output: the same events however they are cut, and never broken arguments.
//!
//! The first byte chooses the options, the second where the output is cut.
#![no_main]

use ds4_text::parse::{Declared, End, Event, Outcome, Parser, ParserOptions};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let [flags, cut, output @ ..] = bytes else { return };
    let bit = |n: u8| flags & (1 << n) != 0;
    let declared = match (bit(3), bit(4)) {
        (false, false) => Declared::Any,
        (false, true) => Declared::None,
        (true, _) => Declared::Names(vec!["f".to_owned(), "bash".to_owned()]),
    };
    let options = ParserOptions { thinking: bit(0), in_block: bit(1), declared, literals: true };
    let end = if bit(2) { End::Length } else { End::Stop };
    let whole = parse(output, &options, end, output.len().max(1));
    for len in [1, usize::from(*cut).max(1)] {
        let pieces = parse(output, &options, end, len);
        assert_eq!(pieces, whole, "cut every {len} bytes");
    }
    for call in whole.0.complete_calls() {
        let arguments = serde_json::from_str::<serde_json::Value>(&call.arguments);
        // Deeper JSON than a reader takes is no JSON here either, so it was made a string.
        assert!(arguments.is_ok_and(|value| value.is_object()), "{}", call.arguments);
    }
});

fn parse(output: &[u8], options: &ParserOptions, end: End, len: usize) -> (Outcome, Vec<Event>) {
    let mut parser = Parser::new(options.clone());
    let mut events = Vec::new();
    for piece in output.chunks(len) {
        for event in parser.push_text(piece) {
            add(&mut events, event);
        }
        let _ = parser.region();
    }
    for event in parser.finish(end) {
        add(&mut events, event);
    }
    (parser.outcome().clone(), events)
}

/// Appends an event; adjacent pieces of the same kind become one.
fn add(events: &mut Vec<Event>, event: Event) {
    match (events.last_mut(), &event) {
        (Some(Event::Thinking(all)), Event::Thinking(piece))
        | (Some(Event::Text(all)), Event::Text(piece)) => all.push_str(piece),
        (
            Some(Event::ToolArgs { index: a, delta: all }),
            Event::ToolArgs { index: b, delta: piece },
        ) if a == b => all.push_str(piece),
        _ => events.push(event),
    }
}
