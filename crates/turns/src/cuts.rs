//! Points of a prompt at which other prompts are likely to part from it.

use ds4_text::Specials;

/// User turns before the last that get a mark.
const USER_MARKS: usize = 4;

/// Where a prompt is worth a mark or a file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Cuts {
    /// The last user turn's start before the first answer: what new conversations share.
    pub anchor: Option<usize>,
    /// Starts of the last user turns.
    pub users: Vec<usize>,
    /// Behind the token that opens the last answer, before reasoning is opened or closed.
    pub opening: Option<usize>,
}

/// The cuts of a prompt.
pub(crate) fn cuts(prompt: &[u32], specials: &Specials) -> Cuts {
    let first_answer = prompt.iter().position(|&id| id == specials.assistant);
    let before = &prompt[..first_answer.unwrap_or(prompt.len())];
    let anchor = before.iter().rposition(|&id| id == specials.user).filter(|&at| at > 0);
    let is_user = |&(at, &id): &(usize, &u32)| at > 0 && id == specials.user;
    let mut users: Vec<usize> = prompt
        .iter()
        .enumerate()
        .rev()
        .filter(is_user)
        .map(|(at, _)| at)
        .take(USER_MARKS)
        .collect();
    users.reverse();
    let opening = prompt.iter().rposition(|&id| id == specials.assistant).filter(|&at| {
        let ends = |id: &u32| *id == specials.user || *id == specials.eos;
        at + 1 < prompt.len() && !prompt[at..].iter().any(ends)
    });
    Cuts { anchor, users, opening: opening.map(|at| at + 1) }
}
