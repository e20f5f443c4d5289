//! What the tests share: the two vocabularies, and a model that knows nothing but the mask.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(dead_code, clippy::allow_attributes, reason = "each test file uses its own part")]

use std::fs;
use std::io::Read;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use ds4_constrain::{Begin, Constraint, Form, Grammar, Grammars};
use ds4_gguf::Gguf;
use ds4_text::{Tokenizer, Vocab};
use serde_json::Value;

pub(crate) mod validate;

fn root(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..").join(name)
}

/// A vocabulary with grammars over it.
pub(crate) struct World {
    pub(crate) tokenizer: Arc<Tokenizer>,
    pub(crate) grammars: Grammars,
    /// Tokens that tend to close what is open, the surest first.
    closers: [Vec<u32>; 3],
}

impl World {
    fn new(tokenizer: Tokenizer) -> Self {
        let tokenizer = Arc::new(tokenizer);
        let grammars = Grammars::new(Arc::clone(&tokenizer));
        let all = || (0u32..).take(tokenizer.vocab().len());
        let only = |set: &'static [u8]| {
            let bytes = |id: &u32| tokenizer.token_bytes(*id).unwrap();
            all().filter(move |id| bytes(id).iter().all(|b| set.contains(b))).collect()
        };
        let marks = all().filter(|id| tokenizer.vocab().is_added(*id)).collect();
        let closers = [marks, only(b"\"}]</>"), only(b",:\n0123456789")];
        Self { tokenizer, grammars, closers }
    }

    pub(crate) fn compile(&self, form: &Form) -> Grammar {
        self.grammars.compile(form).unwrap_or_else(|e| panic!("{e}"))
    }

    pub(crate) fn begin(&self, form: &Form) -> Constraint {
        self.compile(form).begin(Begin::default()).unwrap()
    }

    /// Tokens of text in which the literals of control tokens are the tokens.
    pub(crate) fn ids(&self, text: &str) -> Vec<u32> {
        self.tokenizer.encode_with_control(text)
    }

    pub(crate) fn eos(&self) -> u32 {
        self.tokenizer.specials().eos
    }

    /// The tokens that a constraint allows.
    pub(crate) fn allowed(&self, constraint: &mut Constraint) -> Vec<u32> {
        let mut logits = vec![0.0; self.tokenizer.vocab().len()];
        constraint.mask(&mut logits).unwrap_or_else(|e| panic!("{e}"));
        (0u32..).zip(logits).filter(|(_, l)| l.is_finite()).map(|(id, _)| id).collect()
    }

    /// Whether the whole text, and the end after it, may be the answer.
    pub(crate) fn accepts(&self, form: &Form, text: &str) -> Result<(), String> {
        let mut constraint = self.begin(form);
        self.follow(&mut constraint, text)?;
        self.end(&mut constraint, text)
    }

    /// Ends an answer.
    pub(crate) fn end(&self, constraint: &mut Constraint, text: &str) -> Result<(), String> {
        if !constraint.is_complete() {
            return Err(format!("{text:?} is no whole answer"));
        }
        constraint.accept(self.eos()).map_err(|e| e.to_string())
    }

    /// Feeds text; each token must be in the mask exactly when it is accepted.
    pub(crate) fn follow(&self, constraint: &mut Constraint, text: &str) -> Result<(), String> {
        let mut done = Vec::new();
        for id in self.ids(text) {
            let allowed = self.allowed(constraint);
            let is_accepted = constraint.accept(id).is_ok();
            let context = self.tokenizer.decode(&done).unwrap();
            // Where the text is certain, the mask has its canonical token alone.
            let is_certain = allowed.len() == 1;
            let is_consistent = allowed.contains(&id) == is_accepted || is_certain && is_accepted;
            assert!(is_consistent, "token {id} after {context:?}: {is_accepted}, {allowed:?}");
            if !is_accepted {
                let token = self.tokenizer.decode(&[id]).unwrap();
                return Err(format!("{token:?} is not allowed after {context:?}"));
            }
            done.push(id);
        }
        Ok(())
    }
}

/// The published model's vocabulary.
pub(crate) fn real() -> &'static World {
    static WORLD: OnceLock<World> = OnceLock::new();
    WORLD.get_or_init(|| {
        let mut text = String::new();
        let file = fs::File::open(root("testdata/protocol/vocab.txt.gz")).unwrap();
        flate2::read::GzDecoder::new(file).read_to_string(&mut text).unwrap();
        let (mut tokens, mut types, mut merges) = (Vec::new(), Vec::new(), Vec::new());
        for line in text.lines() {
            let fields: Vec<&str> = line.split('\t').collect();
            tokens.push(fields[0].to_owned());
            types.push(fields[1].parse().unwrap());
            if let (1, Ok(left)) = (types[types.len() - 1], fields[2].parse()) {
                let at = fields[0].char_indices().nth(left).unwrap().0;
                merges.push(format!("{} {}", &fields[0][..at], &fields[0][at..]));
            }
        }
        World::new(Tokenizer::new(Vocab::new(&tokens, &types, &merges).unwrap()).unwrap())
    })
}

/// The demo model's vocabulary.
pub(crate) fn nano() -> &'static World {
    static WORLD: OnceLock<World> = OnceLock::new();
    WORLD.get_or_init(|| {
        let file = Gguf::open(&root("models/nano.gguf")).unwrap();
        World::new(Tokenizer::from_gguf(&file).unwrap())
    })
}

/// Both vocabularies, with their names.
pub(crate) fn worlds() -> [(&'static str, &'static World); 2] {
    [("nano", nano()), ("real", real())]
}

/// The cases of a fixture file.
pub(crate) fn cases(name: &str) -> Vec<Value> {
    let text = fs::read_to_string(root("testdata/protocol").join(name)).unwrap();
    let mut file: Value = serde_json::from_str(&text).unwrap();
    match file["cases"].take() {
        Value::Array(cases) => cases,
        other => panic!("{name}: no cases but {other}"),
    }
}

/// Random numbers (splitmix64).
#[derive(Clone)]
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, n: usize) -> usize {
        usize::try_from(self.next() % n as u64).unwrap()
    }

    pub(crate) fn chance(&mut self, percent: u64) -> bool {
        self.next() % 100 < percent
    }

    pub(crate) fn choose<'a, T>(&mut self, items: &'a [T]) -> &'a T {
        &items[self.below(items.len())]
    }
}

/// Writes an answer by choosing at random among the allowed tokens. It tends to close what is open,
/// or it would write for ever. Returns the tokens, the end included; `None` when it is not done
/// after `max` tokens.
pub(crate) fn walk(
    world: &World,
    constraint: &mut Constraint,
    random: &mut Random,
    max: usize,
) -> Option<Vec<u32>> {
    let mut logits = vec![0.0; world.tokenizer.vocab().len()];
    let mut ids = Vec::new();
    while ids.len() < max {
        logits.fill(0.0);
        constraint.mask(&mut logits).unwrap_or_else(|e| panic!("{e}"));
        let is_allowed = |id: u32| logits[id as usize].is_finite();
        assert_eq!(is_allowed(world.eos()), constraint.is_complete());
        let hurry = if ids.len() > max / 2 { 97 } else { 60 };
        let id = if constraint.is_complete() && random.chance(hurry) {
            world.eos()
        } else {
            choose(world, random, hurry, &is_allowed).unwrap_or_else(|| {
                panic!("nothing is allowed after {:?}", world.tokenizer.decode(&ids))
            })
        };
        constraint.accept(id).unwrap_or_else(|e| panic!("{e}"));
        ids.push(id);
        if id == world.eos() {
            return Some(ids);
        }
    }
    None
}

fn choose(
    world: &World,
    random: &mut Random,
    hurry: u64,
    is_allowed: &dyn Fn(u32) -> bool,
) -> Option<u32> {
    for closers in &world.closers {
        let closing: Vec<u32> = closers.iter().copied().filter(|id| is_allowed(*id)).collect();
        if !closing.is_empty() && random.chance(hurry) {
            return Some(*random.choose(&closing));
        }
    }
    let n = world.tokenizer.vocab().len();
    let guess = (0..50).map(|_| u32::try_from(random.below(n)).unwrap()).find(|id| is_allowed(*id));
    guess.or_else(|| {
        let all: Vec<u32> = (0u32..).take(n).filter(|id| is_allowed(*id)).collect();
        (!all.is_empty()).then(|| *random.choose(&all))
    })
}

/// The text of tokens without the end.
pub(crate) fn text(world: &World, ids: &[u32]) -> String {
    world.tokenizer.decode(ids.split_last().unwrap().1).unwrap()
}
