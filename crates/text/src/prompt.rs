//! A rendered prompt: plain text and control tokens kept apart, so that content can never become
//! control (§A.5).

use crate::control::Control;

/// A stretch of a prompt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Segment {
    /// Text, tokenized without recognising any added token.
    Plain(String),
    /// A control token written by a template.
    Control(Control),
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
            })
            .collect()
    }
}
