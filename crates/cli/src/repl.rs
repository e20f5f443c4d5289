//! `ds4` without a prompt: a chat. On a terminal with line editing and history, elsewhere line by
//! line.

use std::io::{self, BufRead, IsTerminal};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use ds4_engine::{Error as EngineError, Generated};
use ds4_model::Error as ModelError;
use rustyline::error::ReadlineError;
use rustyline::history::FileHistory;
use rustyline::{Config, Editor};

use crate::chat::{self, Talk};
use crate::options::{Chat, Thinking};
use crate::terminal::AnswerWriter;
use crate::{fault, load};

const PROMPT: &str = "ds4> ";
const HISTORY_MAX: usize = 512;

const HELP: &str = "\
/help        this list
/think       think before answering
/think-max   think with maximum effort (needs a context of 393216 tokens)
/nothink     answer at once
/ctx N       change the context length to N tokens
/read FILE   say what is in FILE
/reset       forget the conversation
/stats       show the use of the context and the last answer's speed
/quit, /exit leave
Ctrl-C stops an answer, Ctrl-D leaves.";

/// What a line of input means.
#[derive(Debug, PartialEq, Eq)]
enum Line {
    Nothing,
    Say(String),
    Help,
    Think(Thinking),
    Ctx(u32),
    Read(PathBuf),
    Reset,
    Stats,
    Quit,
}

/// Reads a line; a slash begins a command.
fn parse(line: &str) -> Result<Line> {
    let line = line.trim();
    if !line.starts_with('/') {
        return Ok(if line.is_empty() { Line::Nothing } else { Line::Say(line.to_owned()) });
    }
    let (command, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
    let rest = rest.trim();
    let without_argument = |meaning: Line| {
        if rest.is_empty() { Ok(meaning) } else { bail!("{command} takes no argument") }
    };
    match command {
        "/help" => without_argument(Line::Help),
        "/think" => without_argument(Line::Think(Thinking::On)),
        "/think-max" => without_argument(Line::Think(Thinking::Max)),
        "/nothink" => without_argument(Line::Think(Thinking::Off)),
        "/reset" => without_argument(Line::Reset),
        "/stats" => without_argument(Line::Stats),
        "/quit" | "/exit" => without_argument(Line::Quit),
        "/ctx" => match rest.parse() {
            Ok(n) if n > 0 => Ok(Line::Ctx(n)),
            _ => bail!("/ctx needs a number of tokens"),
        },
        "/read" if rest.is_empty() => bail!("/read needs a file name"),
        "/read" => Ok(Line::Read(rest.into())),
        _ => bail!("unknown command {command}; /help lists the commands"),
    }
}

/// Runs the chat.
pub(crate) fn run(options: &Chat) -> Result<()> {
    let mut input = Input::open()?;
    let mut talk = Talk::open(options)?;
    let mut last = None;
    while let Some(line) = input.next()? {
        match obey(&mut talk, &line, &mut last) {
            Ok(true) => {}
            Ok(false) => break,
            Err(error) if fault::is_closed_pipe(&error) || fault::is_device(&error) => {
                return Err(error);
            }
            Err(error) => eprintln!("ds4: {}", advice(&error)),
        }
    }
    Ok(())
}

/// Does what a line says; returns whether to go on.
fn obey(talk: &mut Talk, line: &str, last: &mut Option<Generated>) -> Result<bool> {
    match parse(line)? {
        Line::Nothing => {}
        Line::Say(text) => *last = Some(say(talk, &text)?),
        Line::Read(path) => *last = Some(say(talk, &read(&path)?)?),
        Line::Help => eprintln!("{HELP}"),
        Line::Think(thinking) => {
            talk.set_thinking(thinking);
            let mode = match talk.thinking {
                Thinking::Off => "off",
                Thinking::On => "on",
                Thinking::Max => "max",
            };
            eprintln!("Thinking mode: {mode}");
        }
        Line::Ctx(ctx) => {
            talk.resize(ctx)?;
            eprintln!("Context: {ctx} tokens");
        }
        Line::Reset => {
            talk.dialogue.clear();
            eprintln!("The conversation is forgotten.");
        }
        Line::Stats => stats(talk, last.as_ref()),
        Line::Quit => return Ok(false),
    }
    Ok(true)
}

fn say(talk: &mut Talk, text: &str) -> Result<Generated> {
    let answer = talk.ask(text, &mut AnswerWriter::stdout())?;
    talk.report(&answer);
    Ok(answer)
}

fn read(path: &Path) -> Result<String> {
    let text = load::read_text(path)?;
    if text.trim().is_empty() {
        bail!("{}: the file is empty", path.display());
    }
    Ok(text)
}

fn stats(talk: &Talk, last: Option<&Generated>) {
    let seq = talk.session.seq();
    let (used, cap) = (seq.tokens().len(), seq.cap());
    eprintln!("ds4: context: {used} of {cap} tokens, {} questions", talk.dialogue.n_turns());
    if let Some(answer) = last {
        let stats = &answer.stats;
        let (prompt, cached) = (stats.prompt_tokens, stats.cached_tokens);
        let ttft = stats.ttft.as_secs_f64();
        eprintln!(
            "ds4: last prompt: {prompt} tokens, {cached} of them kept; first token: {ttft:.2} s"
        );
        chat::report(answer);
    }
}

/// The message of an error, with what helps in a chat.
fn advice(error: &anyhow::Error) -> String {
    match error.downcast_ref::<EngineError>() {
        Some(EngineError::Cancelled) => "interrupted; the question is taken back".to_owned(),
        Some(EngineError::Model(ModelError::ContextFull { .. })) => {
            format!("{}; here: /ctx N or /reset", fault::line(error))
        }
        _ => fault::line(error),
    }
}

/// Where lines come from.
enum Input {
    Terminal { editor: Box<Editor<(), FileHistory>>, history: Option<PathBuf> },
    Lines(io::Lines<io::StdinLock<'static>>),
}

impl Input {
    fn open() -> Result<Self> {
        if !io::stdin().is_terminal() {
            return Ok(Self::Lines(io::stdin().lock().lines()));
        }
        let config = Config::builder()
            .max_history_size(HISTORY_MAX)
            .and_then(|builder| builder.history_ignore_dups(true))
            .context("cannot configure the line editor")?
            .auto_add_history(true)
            .build();
        let mut editor = Editor::with_config(config).context("cannot start the line editor")?;
        let home = std::env::var_os("HOME").filter(|home| !home.is_empty());
        let history = home.map(|home| Path::new(&home).join(".ds4_history"));
        if let Some(path) = history.as_ref().filter(|path| path.exists())
            && let Err(error) = editor.load_history(path)
        {
            eprintln!("ds4: cannot read {}: {error}", path.display());
        }
        Ok(Self::Terminal { editor: Box::new(editor), history })
    }

    /// The next line; `None` at the end.
    fn next(&mut self) -> Result<Option<String>> {
        match self {
            Self::Lines(lines) => lines.next().transpose().context("cannot read stdin"),
            Self::Terminal { editor, history } => loop {
                match editor.readline(PROMPT) {
                    Ok(line) => {
                        if let Some(path) = history
                            && let Err(error) = editor.save_history(path)
                        {
                            eprintln!("ds4: cannot write {}: {error}", path.display());
                            *history = None;
                        }
                        return Ok(Some(line));
                    }
                    // Ctrl-C empties the line.
                    Err(ReadlineError::Interrupted) => {}
                    Err(ReadlineError::Eof) => return Ok(None),
                    Err(error) => return Err(error).context("cannot read the line"),
                }
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_commands_or_said() {
        for (line, want) in [
            ("", Line::Nothing),
            ("  ", Line::Nothing),
            (" hello ", Line::Say("hello".to_owned())),
            ("/help", Line::Help),
            ("/think", Line::Think(Thinking::On)),
            ("/think-max ", Line::Think(Thinking::Max)),
            ("/nothink", Line::Think(Thinking::Off)),
            ("/ctx 4096", Line::Ctx(4096)),
            ("/read a b.txt", Line::Read("a b.txt".into())),
            ("/quit", Line::Quit),
            ("/exit", Line::Quit),
        ] {
            assert_eq!(parse(line).unwrap(), want, "{line:?}");
        }
        for (line, want) in [
            ("/x", "unknown command /x"),
            ("/ctx", "/ctx needs a number"),
            ("/ctx 0", "/ctx needs a number"),
            ("/ctx -5", "/ctx needs a number"),
            ("/read", "/read needs a file name"),
            ("/quit now", "/quit takes no argument"),
        ] {
            let error = parse(line).unwrap_err().to_string();
            assert!(error.contains(want), "{line:?}: {error}");
        }
    }
}
