//! A rendered prompt: plain text and control tokens kept apart, so that content can never become
//! control (§A.5), and what the model itself said kept in its own tokens.

use crate::control::Control;

/// A stretch of a prompt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Segment {
    /// Text, tokenized without recognising any added token.
    Plain(String),
    /// A control token written by a template.
    Control(Control),
    /// What the model said in an earlier turn, in the tokens that it said it in.
    Sampled(Sampled),
}

/// Tokens as they were sampled: they need not be those that the tokenizer gives for their text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sampled {
    /// The tokens, of the vocabulary in use.
    pub ids: Vec<u32>,
    /// Their text, for people.
    pub text: String,
}

/// A prompt as a list of segments.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Prompt {
    segments: Vec<Segment>,
}

impl Prompt {
    /// Appends text. Adjacent texts become one segment, because seams change token ids.
    pub fn text(&mut self, text: &str) -> &mut Self {
        match self.segments.last_mut() {
            _ if text.is_empty() => {}
            Some(Segment::Plain(last)) => last.push_str(text),
            _ => self.segments.push(Segment::Plain(text.to_owned())),
        }
        self
    }

    /// Appends a control token.
    pub fn control(&mut self, control: Control) -> &mut Self {
        self.segments.push(Segment::Control(control));
        self
    }

    /// Appends tokens that the model sampled in an earlier turn.
    pub fn sampled(&mut self, sampled: Sampled) -> &mut Self {
        if !sampled.ids.is_empty() {
            self.segments.push(Segment::Sampled(sampled));
        }
        self
    }

    /// Appends another prompt.
    pub fn append(&mut self, other: &Self) -> &mut Self {
        for segment in &other.segments {
            match segment {
                Segment::Plain(text) => self.text(text),
                Segment::Control(control) => self.control(*control),
                Segment::Sampled(sampled) => self.sampled(sampled.clone()),
            };
        }
        self
    }

    /// Appends text of a template in which `｜DSML｜`, `<think>` and `</think>` are control.
    pub(crate) fn template(&mut self, text: &str) -> &mut Self {
        let mut rest = text;
        let controls = [Control::Dsml, Control::ThinkOpen, Control::ThinkClose];
        while let Some((at, control)) = controls
            .into_iter()
            .filter_map(|control| rest.find(control.text()).map(|at| (at, control)))
            .min_by_key(|&(at, _)| at)
        {
            self.text(&rest[..at]).control(control);
            rest = &rest[at + control.text().len()..];
        }
        self.text(rest)
    }

    /// The segments; no two texts are adjacent.
    pub fn segments(&self) -> &[Segment] {
        &self.segments
    }

    /// Whether nothing was written.
    pub fn is_empty(&self) -> bool {
        self.segments.is_empty()
    }

    /// The prompt as text, control tokens by their literals: for people, not for tokenizing.
    pub fn to_text(&self) -> String {
        self.segments
            .iter()
            .map(|segment| match segment {
                Segment::Plain(text) => text.as_str(),
                Segment::Control(control) => control.text(),
                Segment::Sampled(sampled) => &sampled.text,
            })
            .collect()
    }
}
