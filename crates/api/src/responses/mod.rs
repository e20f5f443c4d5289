//! OpenAI's Responses.

/// What sealed reasoning begins with.
const SEAL: &str = "ds4:";

/// Reasoning in the form in which a client keeps it unread and sends it back.
pub(crate) fn seal_reasoning(text: &str) -> String {
    format!("{SEAL}{text}")
}
