//! What the tests of this crate share: nano's tokenizer, and a client that sends histories back its
//! own way.

#![allow(dead_code, reason = "every test file uses its own part")]

use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;

use ds4_model::TokenId;
use ds4_text::parse::{End, Outcome, Parser};
use ds4_text::{
    Arguments, Conversation, Effort, Message, Profile, ResponseFormat, Role, Thinking, Tokenizer,
    ToolCall, ToolChoice,
};
use ds4_turns::{NextTurn, Options, Rendered, Said, Turns};
use serde_json::{Map, Value, json};

pub(crate) fn nano() -> ds4_gguf::Gguf {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/nano.gguf");
    ds4_gguf::Gguf::open(&path).unwrap()
}

pub(crate) fn tokenizer() -> Arc<Tokenizer> {
    Arc::new(Tokenizer::from_gguf(&nano()).unwrap())
}

pub(crate) fn turns() -> Arc<Turns> {
    Arc::new(Turns::new(tokenizer(), Options::default()))
}

pub(crate) fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(object) => object,
        other => panic!("{other} is no object"),
    }
}

pub(crate) fn tool(name: &str) -> Map<String, Value> {
    object(json!({"name": name, "description": "d", "parameters": {"type": "object"}}))
}

pub(crate) fn conversation(thinks: bool, has_tools: bool) -> Conversation {
    Conversation {
        messages: vec![Message::new(Role::System, "Be brief.")],
        tools: if has_tools { vec![tool("bash"), tool("read")] } else { Vec::new() },
        tool_choice: ToolChoice::Auto,
        response_format: ResponseFormat::Text,
        thinking: if thinks { Thinking::On(Effort::High) } else { Thinking::Off },
    }
}

/// A parameter of a call: its name, whether it is a string, its text.
pub(crate) type Parameter = (&'static str, bool, &'static str);

/// A block of calls as the model writes it, `¦` for the mark.
pub(crate) fn block(calls: &[(&str, &[Parameter])]) -> String {
    let mut text = "<¦tool_calls>\n".to_owned();
    for (name, parameters) in calls {
        let _ = writeln!(text, "<¦invoke name=\"{name}\">");
        for (key, is_string, value) in *parameters {
            let _ = write!(text, "<¦parameter name=\"{key}\" string=\"{is_string}\">");
            let _ = writeln!(text, "{value}</¦parameter>");
        }
        text += "</¦invoke>\n";
    }
    text + "</¦tool_calls>"
}

/// Tokens of a text as a model might sample them: control literals are control, and text is cut in
/// pieces that the tokenizer would not choose.
pub(crate) fn sample(tokenizer: &Tokenizer, text: &str) -> Vec<u32> {
    let text = text.replace('¦', "｜DSML｜");
    let mut ids = Vec::new();
    for id in tokenizer.encode_with_control(&text) {
        let bytes = tokenizer.token_bytes(id).unwrap();
        match std::str::from_utf8(bytes) {
            Ok(piece) if !tokenizer.vocab().is_added(id) && piece.chars().count() > 2 => {
                let cut = piece.char_indices().nth(1).unwrap().0;
                ids.extend(tokenizer.encode_plain(&piece[..cut]));
                ids.extend(tokenizer.encode_plain(&piece[cut..]));
            }
            _ => ids.push(id),
        }
    }
    ids
}

/// What the client heard of an answer.
#[derive(Clone, Debug)]
pub(crate) struct Heard {
    pub(crate) outcome: Outcome,
    pub(crate) call_ids: Vec<String>,
    /// Prompt and sampled tokens.
    pub(crate) live: Vec<u32>,
}

/// One conversation from a client's side.
pub(crate) struct Chat {
    pub(crate) turns: Arc<Turns>,
    pub(crate) profile: Profile,
    pub(crate) conversation: Conversation,
    n_ids: usize,
    name: String,
}

impl Chat {
    pub(crate) fn new(turns: &Arc<Turns>, thinks: bool, has_tools: bool) -> Self {
        Self {
            turns: Arc::clone(turns),
            profile: Profile::April,
            conversation: conversation(thinks, has_tools),
            n_ids: 0,
            name: "call_".to_owned(),
        }
    }

    pub(crate) fn named(self, name: &str) -> Self {
        Self { name: name.to_owned(), ..self }
    }

    pub(crate) fn user(&mut self, text: &str) {
        self.conversation.messages.push(Message::new(Role::User, text));
    }

    pub(crate) fn result(&mut self, id: &str, text: &str) {
        let mut message = Message::new(Role::Tool, text);
        message.call_id = Some(id.to_owned());
        self.conversation.messages.push(message);
    }

    pub(crate) fn render(&self) -> Rendered {
        self.turns.render(self.profile, &self.conversation).unwrap()
    }

    pub(crate) fn ids_for(&mut self, n: usize) -> Vec<String> {
        self.n_ids += n;
        (self.n_ids - n..self.n_ids).map(|i| format!("{}{i}", self.name)).collect()
    }

    /// What a server does at the end of an answer; the sampled tokens are given.
    pub(crate) fn hear(&mut self, turn: &NextTurn, prompt: &[TokenId], sampled: &[u32]) -> Heard {
        let tokenizer = self.turns.tokenizer();
        let mut parser = Parser::new(turn.parser_options());
        for &id in sampled {
            parser.push_token(tokenizer.specials(), id, tokenizer.token_bytes(id).unwrap());
        }
        parser.finish(End::Stop);
        let outcome = parser.outcome().clone();
        let call_ids = self.ids_for(outcome.calls.len());
        let tokens: Vec<TokenId> = sampled.iter().copied().map(TokenId).collect();
        let said = Said { content: &outcome.content, call_ids: &call_ids };
        self.turns.remember(turn, &tokens, &said);
        let live = prompt.iter().map(|t| t.0).chain(sampled.iter().copied()).collect();
        Heard { outcome, call_ids, live }
    }

    /// The model says `text` to the present conversation.
    pub(crate) fn answer(&mut self, text: &str) -> Heard {
        let rendered = self.render();
        let sampled = sample(self.turns.tokenizer(), text);
        self.hear(&rendered.turn, &rendered.prompt, &sampled)
    }

    /// The client puts the answer into its history: calls as JSON, spaced its own way.
    pub(crate) fn keep(&mut self, heard: &Heard) -> &mut Message {
        let mut message = Message::new(Role::Assistant, heard.outcome.content.clone());
        message.reasoning.clone_from(&heard.outcome.reasoning);
        for (call, id) in heard.outcome.calls.iter().zip(&heard.call_ids) {
            let arguments: Value = serde_json::from_str(&call.arguments).unwrap();
            message.calls.push(ToolCall {
                id: Some(id.clone()),
                name: call.name.clone(),
                arguments: Arguments::Text(serde_json::to_string_pretty(&arguments).unwrap()),
            });
        }
        self.conversation.messages.push(message);
        self.conversation.messages.last_mut().unwrap()
    }

    /// Tokens of the next prompt, as text and as ids.
    pub(crate) fn prompt(&self) -> Vec<u32> {
        self.render().prompt.iter().map(|t| t.0).collect()
    }

    pub(crate) fn text(&self, ids: &[u32]) -> String {
        self.turns.tokenizer().decode(ids).unwrap()
    }

    /// Fails unless the next prompt goes on from everything that is live, with the end of the turn.
    pub(crate) fn assert_continues(&self, heard: &Heard) {
        let prompt = self.prompt();
        let eos = self.turns.tokenizer().specials().eos;
        let n = heard.live.len();
        let same = prompt.iter().zip(&heard.live).take_while(|(a, b)| a == b).count();
        let rest = |ids: &[u32]| self.text(&ids[same.min(ids.len())..(same + 12).min(ids.len())]);
        assert!(same == n, "{same} of {n}: {:?}, live {:?}", rest(&prompt), rest(&heard.live));
        assert_eq!(prompt[n], eos);
    }
}
