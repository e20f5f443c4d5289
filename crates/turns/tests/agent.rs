//! Agent loops on the demo model: the model's state, the scheduler, the files and the rendering are
//! the real ones, only the sampled text comes from a script. What counts is how many tokens of each
//! prompt had to be computed.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::{Arc, Mutex};

use common::{Chat, Heard, Parameter, block, nano, sample, tokenizer};
use ds4_engine::{Cancel, End, Sampling, Stats};
use ds4_kvstore::KvStore;
use ds4_model::{ModelFile, TokenId};
use ds4_scheduler::{
    Client, Disk, DiskOptions, Error, Options, Request, Scheduler, Source, Started, identity,
};
use ds4_turns::{CacheTexts, Rendered, Turns};

const CTX: u32 = 4000;
const READ: &[Parameter] = &[("path", true, "src/main.rs"), ("lines", false, "[1, 20]")];

/// The model's part of a server: scheduler and memory over one cache directory.
struct Machine {
    scheduler: Scheduler,
    turns: Arc<Turns>,
}

impl Machine {
    fn start(dir: Option<&Path>) -> Self {
        let file = Arc::new(ModelFile::new(nano(), None).unwrap());
        let numerics = file.dims.profile_g();
        let cpu = ds4_cpu::CpuOptions { threads: 2, numerics, ..ds4_cpu::CpuOptions::default() };
        let store = dir.map(|dir| {
            let options = ds4_kvstore::Options {
                budget_bytes: 1 << 30,
                tokens_min: 64,
                identity: identity(&file, numerics),
                accepts_family: false,
                quant_bits: 0,
                ctx: CTX,
                n_vocab: u32::try_from(file.dims.n_vocab).unwrap(),
                hourly_bytes_max: 0,
                queue_bytes_max: 1 << 30,
            };
            KvStore::open(dir, options).unwrap()
        });
        let turns = Turns::new(tokenizer(), ds4_turns::Options::default());
        let turns = Arc::new(match &store {
            Some(store) => turns.with_disk(store.clone()),
            None => turns,
        });
        let disk_options =
            DiskOptions { tokens_min: 64, continued_interval: 0, ..DiskOptions::default() };
        let disk = store.map(|store| Disk { store, options: disk_options });
        let options = Options { parallel: 4, ctx: CTX, ..Options::default() };
        let texts = Box::new(CacheTexts::new(Arc::clone(&turns)));
        let runner = ds4_cpu::open(&file, &cpu).unwrap();
        Self { scheduler: Scheduler::new(runner, options, texts, disk), turns }
    }

    fn submit(&mut self, rendered: &Rendered, script: &[u32], is_stopped: bool) -> Scripted {
        let tokens = script.iter().copied().map(TokenId).collect();
        let client = Scripted(Arc::new(Mutex::new(Script { tokens, ..Script::default() })));
        let eos = TokenId(self.turns.tokenizer().specials().eos);
        client.0.lock().unwrap().end = if is_stopped { None } else { Some(eos) };
        let request = Request {
            id: 1,
            prompt: rendered.prompt.clone(),
            cuts: rendered.cuts.clone(),
            max_tokens: 1000,
            stops: vec![eos],
            sampling: Sampling::GREEDY,
            cancel: Cancel::default(),
        };
        self.scheduler.submit(request, Box::new(client.clone()));
        client
    }

    fn run(&mut self) {
        while self.scheduler.step().unwrap() || self.scheduler.waiting() > 0 {}
    }

    fn prefilled(&self) -> usize {
        usize::try_from(self.scheduler.counters().prefilled_tokens).unwrap()
    }

    /// One request of a conversation, answered with `text`; with the tokens computed of its prompt.
    fn turn(&mut self, chat: &mut Chat, text: &str) -> Done {
        let rendered = chat.render();
        let sampled = sample(self.turns.tokenizer(), text);
        // As in a server, a block of calls ends the answer before the model does.
        let client = self.submit(&rendered, &sampled, text.ends_with("tool_calls>"));
        let before = self.prefilled();
        self.run();
        let started = client.0.lock().unwrap().started.clone().unwrap();
        assert_eq!(client.0.lock().unwrap().chosen, sampled);
        let heard = chat.hear(&rendered.turn, &rendered.prompt, &sampled);
        Done { heard, started, prefilled: self.prefilled() - before, prompt: rendered.prompt.len() }
    }
}

/// What came of a request.
struct Done {
    heard: Heard,
    started: Started,
    prefilled: usize,
    prompt: usize,
}

impl Done {
    /// Tokens that stay live: the last one was chosen but, unless the end followed, not computed.
    fn live(&self) -> usize {
        self.heard.live.len() - usize::from(!self.heard.call_ids.is_empty())
    }
}

/// Forces the sampled tokens.
#[derive(Clone)]
struct Scripted(Arc<Mutex<Script>>);

#[derive(Default)]
struct Script {
    tokens: Vec<TokenId>,
    /// What follows the script; nothing when the receiver ends the answer with it.
    end: Option<TokenId>,
    chosen: Vec<u32>,
    started: Option<Started>,
}

impl Client for Scripted {
    fn started(&mut self, started: &Started) {
        self.0.lock().unwrap().started = Some(started.clone());
    }

    fn constrain(&mut self, logits: &mut [f32]) {
        let script = self.0.lock().unwrap();
        let next = script.tokens.get(script.chosen.len()).copied().or(script.end).unwrap();
        for (_, logit) in logits.iter_mut().enumerate().filter(|(id, _)| *id != next.0 as usize) {
            *logit = f32::NEG_INFINITY;
        }
    }

    fn token(&mut self, token: TokenId, _: &[f32]) -> ControlFlow<()> {
        let mut script = self.0.lock().unwrap();
        script.chosen.push(token.0);
        let is_end = script.end.is_none() && script.chosen.len() == script.tokens.len();
        if is_end { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }

    fn done(&mut self, outcome: Result<End, Error>, _: &Stats) {
        outcome.unwrap();
    }
}

/// An agent's session: a few tool turns with everything that clients do to a history, then an answer.
fn session(machine: &mut Machine, chat: &mut Chat) -> Done {
    chat.user("Look at the project and tell me what it does.");
    let mut live = 0;
    for (ix, thought) in ["I list it.", "I read it.", "One more."].into_iter().enumerate() {
        let text = format!("{thought}</think>Step {ix}.\n\n{}", block(&[("read", READ)]));
        let done = machine.turn(chat, &text);
        assert_eq!(done.started.reused, live, "step {ix}: {}", done.started.why);
        assert_eq!(done.prefilled, done.prompt - live, "step {ix}");
        assert!(ix == 0 || done.prefilled < 60, "step {ix}: {} tokens", done.prefilled);
        live = done.live();
        let kept = chat.keep(&done.heard);
        match ix {
            0 => kept.reasoning.clear(),
            1 => "…".clone_into(&mut kept.reasoning),
            _ => kept.content = kept.content.trim().to_owned(),
        }
        chat.result(&done.heard.call_ids[0], "fn main() {}");
    }
    let done = machine.turn(chat, "Enough.</think>It does nothing.");
    assert_eq!(done.started.reused, live, "{}", done.started.why);
    chat.keep(&done.heard).reasoning.clear();
    done
}

#[test]
fn a_tool_loop_computes_only_what_is_new() {
    let mut machine = Machine::start(None);
    let mut chat = Chat::new(&machine.turns, true, true);
    let last = session(&mut machine, &mut chat);
    let live = last.live();

    // A retry of the last request computes nothing: its prompt ends at a mark.
    let answer = chat.conversation.messages.pop().unwrap();
    let again = machine.turn(&mut chat, "Enough.</think>It does nothing.");
    assert_eq!((again.started.reused, again.prefilled), (last.prompt, 0));
    chat.conversation.messages.push(answer);

    // A follow-up begins behind the answer.
    chat.user("Sure?");
    let next = machine.turn(&mut chat, "Yes.</think>Yes.");
    assert_eq!(
        (next.started.reused, next.started.source),
        (live, Source::Live),
        "{}",
        next.started.why
    );

    // The last message edited: back to where the two differ, or the mark before it.
    *chat.conversation.messages.last_mut().unwrap() =
        ds4_text::Message::new(ds4_text::Role::User, "Really sure?");
    let edited = machine.turn(&mut chat, "Yes.</think>Very.");
    assert!(edited.started.reused >= live);
    assert!(edited.prefilled < 20, "{}", edited.prefilled);

    // A rewind by several turns: what differs is computed, and no more than that.
    chat.conversation.messages.truncate(5);
    "other output".clone_into(&mut chat.conversation.messages[4].content);
    let rewound = machine.turn(&mut chat, "Hm.</think>Other.");
    assert!(rewound.started.reused > 300, "{:?}", rewound.started);
    assert!(rewound.prefilled < 100, "{} of {}", rewound.prefilled, rewound.prompt);
}

#[test]
fn without_tools_only_the_visible_answer_is_computed_again() {
    let mut machine = Machine::start(None);
    let mut chat = Chat::new(&machine.turns, true, false);
    chat.user(&"Tell me a long story about a small machine that counts tokens. ".repeat(4));
    let thought = "I should think about this for quite a while. ".repeat(8);
    let first = machine.turn(&mut chat, &format!("{thought}</think>Once upon a time."));
    chat.keep(&first.heard).reasoning.clear();
    chat.user("Go on.");
    let second = machine.turn(&mut chat, "More.</think>It counted.");
    // All but the token that opened the reasoning.
    assert_eq!(second.started.reused, first.prompt - 1);
    assert!(second.prefilled < 40, "{}", second.prefilled);
}

#[test]
fn subagents_share_their_beginning_and_leave_the_main_session_alone() {
    let mut machine = Machine::start(None);
    let mut main = Chat::new(&machine.turns, true, true);
    let last = session(&mut machine, &mut main);
    let before = machine.prefilled();
    let subagents: Vec<(Rendered, Scripted)> = (0..3)
        .map(|i| {
            let mut chat = Chat::new(&machine.turns, true, true).named(&format!("sub{i}_"));
            chat.user(&format!("Subtask {i}: count the files."));
            let rendered = chat.render();
            let sampled = sample(machine.turns.tokenizer(), "Fine.</think>Three.");
            let client = machine.submit(&rendered, &sampled, false);
            (rendered, client)
        })
        .collect();
    machine.run();
    let anchor = subagents[0].0.cuts.anchor.unwrap();
    for (rendered, client) in &subagents {
        let started = client.0.lock().unwrap().started.clone().unwrap();
        assert_eq!((started.reused, started.source), (anchor, Source::Forked), "{}", started.why);
        assert!(rendered.prompt.len() - anchor < 40);
    }
    assert!(machine.prefilled() - before < 3 * 40);
    main.user("And?");
    let next = machine.turn(&mut main, "So.</think>That is all.");
    assert_eq!((next.started.reused, next.started.source), (last.live(), Source::Live));
}

#[test]
fn a_session_goes_on_after_a_restart_as_if_there_was_none() {
    let dir = tempfile::tempdir().unwrap();
    let mut machine = Machine::start(Some(dir.path()));
    let mut chat = Chat::new(&machine.turns, true, true);
    let last = session(&mut machine, &mut chat);
    machine.scheduler.shut_down();
    drop(machine);

    let mut machine = Machine::start(Some(dir.path()));
    chat.turns = Arc::clone(&machine.turns);
    chat.user("Sure?");
    let next = machine.turn(&mut chat, "Yes.</think>Yes.");
    assert_eq!((next.started.reused, next.started.source), (last.live(), Source::Disk));
    assert_eq!(next.prefilled, next.prompt - last.live());
    drop(machine);

    // Killed at some time later, the file that was used is still there.
    let mut machine = Machine::start(Some(dir.path()));
    chat.turns = Arc::clone(&machine.turns);
    let again = machine.turn(&mut chat, "Yes.</think>Yes.");
    assert_eq!((again.started.reused, again.started.source), (last.live(), Source::Disk));
    // A new session begins at the anchor that the first one stored.
    let mut other = Chat::new(&machine.turns, true, true).named("other_");
    other.user("Something else.");
    let rendered = other.render();
    drop(machine);
    let mut machine = Machine::start(Some(dir.path()));
    other.turns = Arc::clone(&machine.turns);
    let cold = machine.turn(&mut other, "Fine.</think>Fine.");
    assert_eq!(
        (cold.started.reused, cold.started.source),
        (rendered.cuts.anchor.unwrap(), Source::Disk)
    );
}

#[test]
fn without_tools_the_file_of_a_session_is_of_use_too() {
    let dir = tempfile::tempdir().unwrap();
    let mut machine = Machine::start(Some(dir.path()));
    let mut chat = Chat::new(&machine.turns, true, false);
    chat.user(&"Tell me a long story about a small machine that counts tokens. ".repeat(12));
    let first = machine.turn(&mut chat, "Hm, a story.</think>Once upon a time.");
    machine.scheduler.shut_down();
    drop(machine);
    let mut machine = Machine::start(Some(dir.path()));
    chat.turns = Arc::clone(&machine.turns);
    chat.keep(&first.heard).reasoning.clear();
    chat.user("Go on.");
    let second = machine.turn(&mut chat, "More.</think>It counted.");
    assert_eq!((second.started.reused, second.started.source), (first.prompt - 1, Source::Disk));
}
