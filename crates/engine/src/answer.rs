//! Sampled tokens to what a reader sees: thinking, text and tool calls, cut at stop strings.

use std::ops::Deref;

use ds4_model::TokenId;
use ds4_text::parse::{
    End as ParseEnd, Event, FinishReason, Outcome, Parser, ParserOptions, Region,
};
use ds4_text::{Specials, Tokenizer};

use crate::{End, Result, StopStrings};

/// Turns tokens into events as they are sampled; the tokenizer is borrowed or shared.
pub struct AnswerReader<T> {
    tokenizer: T,
    parser: Parser,
    stops: StopStrings,
}

impl<T: Deref<Target = Tokenizer>> AnswerReader<T> {
    /// A reader at the start of an answer. `stops` end it where they occur in its text, but not in
    /// its thinking or its calls.
    pub fn new(tokenizer: T, options: ParserOptions, stops: StopStrings) -> Self {
        Self { tokenizer, parser: Parser::new(options), stops }
    }

    /// Takes the next token.
    pub fn push(&mut self, token: TokenId) -> Result<Vec<Event>> {
        let bytes = self.tokenizer.token_bytes(token.0)?;
        let events = self.parser.push_token(self.tokenizer.specials(), token.0, bytes);
        Ok(self.cut(events))
    }

    /// Whether the answer is complete, so that nothing more need be sampled.
    pub fn is_done(&self) -> bool {
        self.stops.is_found() || self.parser.is_done()
    }

    /// What the next token is part of.
    pub fn region(&self) -> Region {
        self.parser.region()
    }

    /// Everything so far, with what a stop string cut off.
    pub fn outcome(&self) -> &Outcome {
        self.parser.outcome()
    }

    /// The stop string that ended the answer.
    pub fn stopped_by(&self) -> Option<&str> {
        self.stops.found()
    }

    /// The end of the answer.
    pub fn finish(&mut self, end: End) -> Vec<Event> {
        let events = self.parser.finish(parse_end(end));
        let mut events = self.cut(events);
        push_text(&mut events, self.stops.finish());
        events
    }

    /// What to tell a client about the end; call after [`AnswerReader::finish`].
    pub fn finish_reason(&self, end: End) -> FinishReason {
        if self.stops.is_found() {
            return FinishReason::Stop;
        }
        self.parser.outcome().finish_reason(parse_end(end))
    }

    /// Holds text back that may become a stop string, and drops what follows one.
    fn cut(&mut self, events: Vec<Event>) -> Vec<Event> {
        let mut out = Vec::with_capacity(events.len());
        for event in events {
            if self.stops.is_found() {
                break;
            }
            match event {
                Event::Text(text) => push_text(&mut out, self.stops.push(&text)),
                Event::Thinking(_) => out.push(event),
                call => {
                    // What was held back stands before the call.
                    push_text(&mut out, self.stops.finish());
                    out.push(call);
                }
            }
        }
        out
    }
}

fn push_text(events: &mut Vec<Event>, text: String) {
    if !text.is_empty() {
        events.push(Event::Text(text));
    }
}

/// Whether the model ended its answer, or was cut off.
fn parse_end(end: End) -> ParseEnd {
    match end {
        End::Stop(_) | End::Receiver => ParseEnd::Stop,
        End::Length | End::ContextFull | End::Cancelled => ParseEnd::Length,
    }
}

/// Tokens that end an answer: the end of sequence, and those that could only open somebody else's
/// turn.
pub fn stop_ids(specials: &Specials) -> Vec<TokenId> {
    let own = [specials.eos, specials.user, specials.bos];
    own.into_iter().chain(specials.eot).map(TokenId).collect()
}

#[cfg(test)]
mod tests {
    use ds4_model::testing;
    use ds4_text::parse::Declared;

    use super::*;

    /// Reads the tokens of `text` one by one; adjacent pieces of a kind are joined.
    fn read(text: &str, thinking: bool, stops: &[&str], end: End) -> (Vec<Event>, FinishReason) {
        let gguf = testing::quant_gguf(1).unwrap();
        let tokenizer = Tokenizer::from_gguf(&gguf).unwrap();
        let options =
            ParserOptions { thinking, declared: Declared::Any, ..ParserOptions::default() };
        let mut reader = AnswerReader::new(&tokenizer, options, StopStrings::new(stops));
        let mut events = Vec::new();
        for id in tokenizer.encode_with_control(text) {
            events.extend(reader.push(TokenId(id)).unwrap());
            if reader.is_done() {
                break;
            }
        }
        events.extend(reader.finish(end));
        let mut joined: Vec<Event> = Vec::new();
        for event in events {
            match (joined.last_mut(), event) {
                (Some(Event::Text(last)), Event::Text(text))
                | (Some(Event::Thinking(last)), Event::Thinking(text)) => last.push_str(&text),
                (Some(Event::ToolArgs { delta: last, .. }), Event::ToolArgs { delta, .. }) => {
                    last.push_str(&delta);
                }
                (_, event) => joined.push(event),
            }
        }
        (joined, reader.finish_reason(end))
    }

    fn thinking(text: &str) -> Event {
        Event::Thinking(text.to_owned())
    }

    fn text(text: &str) -> Event {
        Event::Text(text.to_owned())
    }

    #[test]
    fn stop_strings_count_in_the_text_alone() {
        let eos = End::Stop(TokenId(1));
        let (events, why) = read("not STOP yet</think>now STOP here", true, &["STOP"], eos);
        assert_eq!(events, [thinking("not STOP yet"), text("now ")]);
        assert_eq!(why, FinishReason::Stop);
        let (events, why) = read("a S", false, &["STOP"], End::Length);
        assert_eq!(events, [text("a S")]);
        assert_eq!(why, FinishReason::Length);
    }

    #[test]
    fn a_call_ends_the_answer_with_its_arguments() {
        let block = "I look.\n\n<｜DSML｜tool_calls>\n<｜DSML｜invoke name=\"ls\">\n\
            <｜DSML｜parameter name=\"dir\" string=\"true\">/STOP</｜DSML｜parameter>\n\
            </｜DSML｜invoke>\n</｜DSML｜tool_calls>";
        let (events, why) = read(block, false, &["STOP"], End::Receiver);
        let arguments = "{\"dir\":\"/STOP\"}".to_owned();
        assert_eq!(
            events,
            [
                text("I look."),
                Event::ToolStart { index: 0, name: "ls".to_owned() },
                Event::ToolArgs { index: 0, delta: arguments.clone() },
                Event::ToolEnd { index: 0, arguments: Some(arguments) },
            ]
        );
        assert_eq!(why, FinishReason::ToolCalls);
    }
}
