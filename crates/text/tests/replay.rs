//! Parts of an assistant message that were sampled: written in their own tokens, where the profile
//! writes the part at all.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use ds4_text::{
    Control, Conversation, Effort, Message, Profile, Prompt, Replay, ResponseFormat, Role, Sampled,
    Segment, Thinking, ToolCall, ToolChoice, render,
};
use serde_json::{Map, Value};

fn sampled(ids: &[u32], text: &str) -> Prompt {
    let mut prompt = Prompt::default();
    prompt.sampled(Sampled { ids: ids.to_vec(), text: text.to_owned() });
    prompt
}

fn conversation(thinking: Thinking, has_tools: bool, replay: Replay) -> Conversation {
    let mut answer = Message::new(Role::Assistant, "client's content");
    "client's reasoning".clone_into(&mut answer.reasoning);
    answer.calls = vec![ToolCall {
        id: Some("call_1".to_owned()),
        name: "f".to_owned(),
        arguments: ds4_text::Arguments::Object(Map::new()),
    }];
    answer.replay = Some(Box::new(replay));
    let tools = if has_tools {
        vec![Map::from_iter([("name".to_owned(), Value::from("f"))])]
    } else {
        Vec::new()
    };
    Conversation {
        messages: vec![Message::new(Role::User, "a"), answer, Message::new(Role::User, "b")],
        tools,
        tool_choice: ToolChoice::Auto,
        response_format: ResponseFormat::Text,
        thinking,
    }
}

/// The segments between the first opening and the end of that turn.
fn first_turn(profile: Profile, conversation: &Conversation) -> Vec<Segment> {
    let prompt = render(profile, conversation).unwrap();
    let segments = prompt.segments();
    let start = segments.iter().position(|s| *s == Segment::Control(Control::Assistant)).unwrap();
    let end = segments.iter().position(|s| *s == Segment::Control(Control::Eos)).unwrap();
    segments[start + 1..end].to_vec()
}

#[test]
fn sampled_parts_stand_for_reasoning_content_and_calls() {
    let (thought, said) = (sampled(&[7, 8], "thought"), sampled(&[9], "said"));
    let replay = || Replay {
        reasoning: Some(thought.clone()),
        answer: Some(said.clone()),
        ..Replay::default()
    };
    for profile in [Profile::April, Profile::July] {
        let kept = conversation(Thinking::On(Effort::High), true, replay());
        let mut expected = vec![Segment::Control(Control::ThinkOpen)];
        expected.extend_from_slice(thought.segments());
        expected.push(Segment::Control(Control::ThinkClose));
        expected.extend_from_slice(said.segments());
        assert_eq!(first_turn(profile, &kept), expected);
        // Without declared tools earlier reasoning is dropped, sampled or not.
        let dropped = conversation(Thinking::On(Effort::High), false, replay());
        let mut expected = vec![Segment::Control(Control::ThinkClose)];
        expected.extend_from_slice(said.segments());
        assert_eq!(first_turn(profile, &dropped), expected);
    }
}

#[test]
fn sampled_calls_follow_content_of_the_client() {
    let mut calls = Prompt::default();
    calls.text("\n\n<").control(Control::Dsml).text("tool_calls>");
    let replay = Replay { calls: Some(calls), ..Replay::default() };
    let turn = first_turn(Profile::April, &conversation(Thinking::Off, true, replay));
    assert_eq!(
        turn,
        [
            Segment::Control(Control::ThinkClose),
            Segment::Plain("client's content\n\n<".to_owned()),
            Segment::Control(Control::Dsml),
            Segment::Plain("tool_calls>".to_owned()),
        ]
    );
}
