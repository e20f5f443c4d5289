//! What one answer and a chat share: a session, a dialogue, and streaming an answer to a writer.

use std::io::Write;
use std::ops::ControlFlow;

use anyhow::{Result, bail};
use ds4_engine::{
    AnswerReader, Cancel, Dialogue, Generated, Request, Sampling, Session, StopStrings, stop_ids,
};
use ds4_model::{Residency, TokenId};
use ds4_text::parse::{Event, ParserOptions};
use ds4_text::{BOS, Tokenizer};

use crate::backend::{Needs, Room};
use crate::load;
use crate::machine::check_memory;
use crate::options::{Chat, Prompt, THINK_MAX_CTX, Thinking};
use crate::terminal::{self, AnswerWriter};

/// Prompts shorter than this are computed without a progress bar.
const BAR_TOKENS: usize = 64;

/// What to do about a context that does not fit into memory.
const ADVICE: &str = "use a smaller --ctx";

/// A running chat.
pub(crate) struct Talk {
    /// The model and its live sequence.
    pub session: Session,
    /// Its tokenizer.
    pub tokenizer: Tokenizer,
    /// What was said.
    pub dialogue: Dialogue,
    /// How much to think.
    pub thinking: Thinking,
    sampling: Sampling,
    max_tokens: usize,
    draft_max: usize,
    stops: Vec<TokenId>,
    cancel: Cancel,
    /// Answers so far: each has its own random stream.
    n_answers: u64,
    /// Memory for its sequence.
    room: Room,
    /// How experts had been found when the last answer was reported.
    residency: Residency,
}

impl Talk {
    /// Loads the model and opens a sequence.
    pub(crate) fn open(options: &Chat) -> Result<Self> {
        let cancel = terminal::interrupt()?;
        let loaded = load::open(&options.model, Needs::seq(options.ctx))?;
        let tokenizer = load::tokenizer(&loaded.file.gguf)?;
        loaded.plan(options.ctx, ADVICE)?;
        let stops = stop_ids(tokenizer.specials());
        let mut talk = Self {
            session: Session::open(loaded.runner, options.ctx)?,
            tokenizer,
            dialogue: Dialogue::new(&options.system),
            thinking: Thinking::Off,
            sampling: options.sampling,
            max_tokens: options.max_tokens,
            draft_max: options.model.draft_max,
            stops,
            cancel,
            n_answers: 0,
            room: loaded.room,
            residency: Residency::default(),
        };
        talk.set_thinking(options.thinking);
        Ok(talk)
    }

    /// Changes how much to think; maximum effort needs a long context.
    pub(crate) fn set_thinking(&mut self, wanted: Thinking) {
        let ctx = self.session.seq().cap();
        self.thinking = if wanted == Thinking::Max && ctx < THINK_MAX_CTX {
            eprintln!(
                "ds4: maximum thinking needs --ctx {THINK_MAX_CTX} or more: thinking as usual"
            );
            Thinking::On
        } else {
            wanted
        };
    }

    /// Forgets the live sequence and opens one of `ctx` tokens; the dialogue is computed again.
    pub(crate) fn resize(&mut self, ctx: u32) -> Result<()> {
        let old = self.session.seq().cap();
        let runner = self.session.runner();
        let (now, then) = (runner.seq_bytes(old), runner.seq_bytes(ctx));
        let more = then.saturating_sub(now);
        // A GPU says itself what it has not; then the old context is opened again.
        if let Room::Host { .. } = self.room {
            check_memory(more, &format!("a context of {ctx} tokens"), ADVICE)?;
        }
        if let Err(error) = self.session.reopen(ctx) {
            self.session.reopen(old)?;
            return Err(error.into());
        }
        self.set_thinking(self.thinking);
        Ok(())
    }

    /// Speeds of an answer, how its drafts fared, and which experts had to be read, to stderr.
    pub(crate) fn report(&mut self, generated: &Generated) {
        report(generated);
        if let Some(now) = self.session.runner().residency() {
            eprintln!("ds4: {}", load::residency_line(&now.since(self.residency)));
            self.residency = now;
        }
    }

    /// Puts a question, streams the answer and remembers both.
    pub(crate) fn ask<W: Write>(
        &mut self,
        user: &str,
        out: &mut AnswerWriter<W>,
    ) -> Result<Generated> {
        let thinks = self.thinking != Thinking::Off;
        self.dialogue.ask(user, thinks);
        let is_max = self.thinking == Thinking::Max;
        let prompt = self.dialogue.prompt(&self.tokenizer, is_max).map_err(anyhow::Error::from);
        let answer = prompt.and_then(|prompt| self.reply(&prompt, thinks, out));
        match &answer {
            Ok(answer) => self.dialogue.answer(&answer.ids),
            Err(_) => self.dialogue.retract(),
        }
        answer
    }

    /// Continues a prompt and streams what comes; `thinks` says that it begins with thinking.
    pub(crate) fn reply<W: Write>(
        &mut self,
        prompt: &[TokenId],
        thinks: bool,
        out: &mut AnswerWriter<W>,
    ) -> Result<Generated> {
        let seed = self.sampling.seed.wrapping_add(self.n_answers);
        self.n_answers += 1;
        // An interrupt from before this answer does not concern it.
        self.cancel.take();
        let request = Request {
            prompt,
            sampling: Sampling { seed, ..self.sampling },
            max_tokens: self.max_tokens,
            stops: &self.stops,
            draft_max: self.draft_max,
            cancel: &self.cancel,
        };
        let options = ParserOptions { thinking: thinks, ..ParserOptions::default() };
        let mut reader = AnswerReader::new(&self.tokenizer, options, StopStrings::default());
        let bar = terminal::progress_bar("prefill", prompt.len(), "tokens");
        let is_long = prompt.len() >= BAR_TOKENS;
        let mut on_prefill = |done: usize| {
            if is_long {
                bar.set_position(done as u64);
            }
        };
        let mut failure = None;
        let working = terminal::Working::start();
        let generated = self.session.generate(&request, &mut on_prefill, &mut |token, _| {
            bar.finish_and_clear();
            working.is_quick();
            let written = reader.push(token).map_err(anyhow::Error::from);
            match written.and_then(|events| write_all(out, &events)) {
                Ok(()) => ControlFlow::Continue(()),
                Err(error) => {
                    failure = Some(error);
                    ControlFlow::Break(())
                }
            }
        });
        drop(working);
        bar.finish_and_clear();
        if let Some(error) = failure {
            return Err(error);
        }
        let generated = generated?;
        write_all(out, &reader.finish(generated.end))?;
        out.finish()?;
        Ok(generated)
    }
}

fn write_all<W: Write>(out: &mut AnswerWriter<W>, events: &[Event]) -> Result<()> {
    for event in events {
        match event {
            Event::Thinking(text) => out.thinking(text)?,
            Event::Text(text) => out.text(text)?,
            // Without declared functions everything is text.
            Event::ToolStart { .. } | Event::ToolArgs { .. } | Event::ToolEnd { .. } => {}
        }
    }
    Ok(())
}

/// Speeds of an answer, and how its drafts fared, to stderr.
pub(crate) fn report(generated: &Generated) {
    let stats = &generated.stats;
    eprintln!(
        "ds4: prefill: {:.2} t/s, generation: {:.2} t/s",
        stats.prefill_tps(),
        stats.generation_tps()
    );
    let drafts = &stats.drafts;
    if drafts.steps > 0 {
        let rates: Vec<String> = drafts.rates().iter().map(|rate| format!("{rate:.2}")).collect();
        eprintln!("ds4: drafts accepted by position: {}", rates.join(" "));
    }
}

/// The text of a prompt.
pub(crate) fn prompt_text(prompt: &Prompt) -> Result<String> {
    let text = match prompt {
        Prompt::Text(text) => text.clone(),
        Prompt::File(path) => load::read_text(path)?,
    };
    if text.is_empty() {
        bail!("the prompt is empty");
    }
    Ok(text)
}

/// Tokens of a prompt, and whether the answer begins with thinking. A text that begins with the BOS
/// literal is already rendered; any other is what a user says.
pub(crate) fn prompt_ids(talk: &mut Talk, text: &str) -> Result<(Vec<TokenId>, bool)> {
    if text.starts_with(BOS) {
        let ids = talk.tokenizer.encode_with_control(text);
        let thinks = ids.last() == Some(&talk.tokenizer.specials().think_open);
        return Ok((ids.into_iter().map(TokenId).collect(), thinks));
    }
    let thinks = talk.thinking != Thinking::Off;
    talk.dialogue.ask(text, thinks);
    let is_max = talk.thinking == Thinking::Max;
    Ok((talk.dialogue.prompt(&talk.tokenizer, is_max)?, thinks))
}

/// `ds4 -p`: answers one prompt.
pub(crate) fn answer(options: &Chat, prompt: &Prompt) -> Result<()> {
    let text = prompt_text(prompt)?;
    let mut talk = Talk::open(options)?;
    let (ids, thinks) = prompt_ids(&mut talk, &text)?;
    let generated = talk.reply(&ids, thinks, &mut AnswerWriter::stdout())?;
    talk.report(&generated);
    Ok(())
}
