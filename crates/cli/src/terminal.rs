//! What people see: streamed text, grey thinking, progress bars, and Ctrl-C as a wish to stop.

use std::io::{self, IsTerminal, StdoutLock, Write};
use std::process;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU8, Ordering};

use anyhow::{Context, Result};
use ds4_engine::Cancel;
use indicatif::{ProgressBar, ProgressStyle};

const GREY: &str = "\x1b[90m";
const RESET: &str = "\x1b[0m";

/// What the last piece of an answer was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Nothing,
    Thinking,
    Text,
}

/// Streams an answer. On a terminal thinking is grey and set apart by a line; elsewhere it stands
/// between `<think>` and `</think>`, so that the two can be told apart.
pub(crate) struct AnswerWriter<W: Write> {
    out: W,
    is_terminal: bool,
    part: Part,
    /// Whether the last byte was a line feed, or nothing was written.
    is_line_start: bool,
}

impl AnswerWriter<StdoutLock<'static>> {
    /// Streams to stdout.
    pub(crate) fn stdout() -> Self {
        let out = io::stdout();
        let is_terminal = out.is_terminal();
        Self::new(out.lock(), is_terminal)
    }
}

impl<W: Write> AnswerWriter<W> {
    /// Streams to `out`.
    pub(crate) fn new(out: W, is_terminal: bool) -> Self {
        Self { out, is_terminal, part: Part::Nothing, is_line_start: true }
    }

    /// Writes thinking.
    pub(crate) fn thinking(&mut self, text: &str) -> io::Result<()> {
        self.turn_to(Part::Thinking)?;
        self.write(text)
    }

    /// Writes text of the answer.
    pub(crate) fn text(&mut self, text: &str) -> io::Result<()> {
        self.turn_to(Part::Text)?;
        self.write(text)
    }

    /// Ends the answer with a line feed, unless it has one.
    pub(crate) fn finish(&mut self) -> io::Result<()> {
        self.turn_to(Part::Nothing)?;
        if !self.is_line_start {
            self.out.write_all(b"\n")?;
            self.is_line_start = true;
        }
        self.out.flush()
    }

    fn write(&mut self, text: &str) -> io::Result<()> {
        if let Some(last) = text.bytes().last() {
            self.is_line_start = last == b'\n';
        }
        self.out.write_all(text.as_bytes())?;
        self.out.flush()
    }

    /// Closes one part and opens the next.
    fn turn_to(&mut self, next: Part) -> io::Result<()> {
        if next == self.part {
            return Ok(());
        }
        match (self.part, self.is_terminal) {
            (Part::Thinking, true) => {
                let gap = if self.is_line_start { "\n" } else { "\n\n" };
                let gap = if next == Part::Text { gap } else { "" };
                self.out.write_all(format!("{RESET}{gap}").as_bytes())?;
            }
            (Part::Thinking, false) => self.out.write_all(b"</think>")?,
            (Part::Nothing | Part::Text, _) => {}
        }
        if next == Part::Thinking {
            let open = if self.is_terminal { GREY } else { "<think>" };
            self.out.write_all(open.as_bytes())?;
        }
        self.part = next;
        Ok(())
    }
}

/// The flag that Ctrl-C sets; the first call installs the handler.
pub(crate) fn interrupt() -> Result<Cancel> {
    static FLAG: OnceLock<Cancel> = OnceLock::new();
    if let Some(flag) = FLAG.get() {
        return Ok(flag.clone());
    }
    let flag = FLAG.get_or_init(Cancel::default).clone();
    let asked = flag.clone();
    ctrlc::set_handler(move || {
        let state = STATE.load(Ordering::Relaxed);
        // Asked twice, or nobody listens: leave at once.
        if asked.is_set() || state == IDLE {
            process::exit(130);
        }
        asked.set();
        if state == PREFILL {
            eprintln!("\nds4: stopping after this part of the prompt; Ctrl-C again leaves");
        }
    })
    .context("cannot install the Ctrl-C handler")?;
    Ok(flag)
}

/// What the main thread does: loading or nothing, computing a prompt, generating.
static STATE: AtomicU8 = AtomicU8::new(IDLE);
const IDLE: u8 = 0;
const PREFILL: u8 = 1;
const DECODE: u8 = 2;

/// While this lives, the flag of [`interrupt`] is looked at: between the parts of a prompt, then
/// after every token.
pub(crate) struct Working(());

impl Working {
    /// A prompt is being computed.
    pub(crate) fn start() -> Self {
        STATE.store(PREFILL, Ordering::Relaxed);
        Self(())
    }

    /// Tokens are being generated: the flag is looked at often.
    #[expect(clippy::unused_self, reason = "only who works may say so")]
    pub(crate) fn is_quick(&self) {
        STATE.store(DECODE, Ordering::Relaxed);
    }
}

impl Drop for Working {
    fn drop(&mut self) {
        STATE.store(IDLE, Ordering::Relaxed);
    }
}

/// Says something on stderr: as a log line where lines are logged, else after the program's name.
pub(crate) fn note(text: &str) {
    if tracing::dispatcher::has_been_set() {
        tracing::info!("{text}");
    } else {
        eprintln!("ds4: {text}");
    }
}

/// A bar on stderr that appears only on a terminal.
pub(crate) fn progress_bar(what: &'static str, len: usize, unit: &str) -> ProgressBar {
    let template = format!("{what} {{bar:32}} {{pos}}/{{len}} {unit} {{per_sec}} {{eta}}");
    let style = ProgressStyle::with_template(&template).expect("a template without user input");
    // The default target draws nothing where stderr is not a terminal.
    ProgressBar::new(len as u64).with_style(style)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(is_terminal: bool, thinking: &str, text: &str) -> String {
        let mut out = Vec::new();
        let mut writer = AnswerWriter::new(&mut out, is_terminal);
        for piece in thinking.split_inclusive(' ') {
            writer.thinking(piece).unwrap();
        }
        for piece in text.split_inclusive(' ') {
            writer.text(piece).unwrap();
        }
        writer.finish().unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn thinking_is_grey_on_a_terminal_and_marked_elsewhere() {
        assert_eq!(written(true, "I see", "An answer"), "\x1b[90mI see\x1b[0m\n\nAn answer\n");
        assert_eq!(written(true, "I see\n", "An answer\n"), "\x1b[90mI see\n\x1b[0m\nAn answer\n");
        assert_eq!(written(true, "I see", ""), "\x1b[90mI see\x1b[0m\n");
        assert_eq!(written(false, "I see", "An answer"), "<think>I see</think>An answer\n");
        assert_eq!(written(false, "I see", ""), "<think>I see</think>\n");
        assert_eq!(written(false, "", "An answer"), "An answer\n");
        assert_eq!(written(false, "", ""), "");
    }
}
