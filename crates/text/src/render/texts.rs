//! The model's own prompt texts, each once. Bytes are data: a changed space is a different prompt.

/// Before the tool schemas (§B.6). `｜DSML｜`, `<think>` and `</think>` in it are control tokens.
pub(super) const TOOLS_PREAMBLE: &str = "\
## Tools

You have access to a set of tools to help answer the user's question. You can invoke tools by \
writing a \"<｜DSML｜tool_calls>\" block like the following:

<｜DSML｜tool_calls>
<｜DSML｜invoke name=\"$TOOL_NAME\">
<｜DSML｜parameter name=\"$PARAMETER_NAME\" string=\"true|false\">$PARAMETER_VALUE</｜DSML｜parameter>
...
</｜DSML｜invoke>
<｜DSML｜invoke name=\"$TOOL_NAME2\">
...
</｜DSML｜invoke>
</｜DSML｜tool_calls>

String parameters should be specified as is and set `string=\"true\"`. For all other types \
(numbers, booleans, arrays, objects), pass the value in JSON format and set `string=\"false\"`.

If thinking_mode is enabled (triggered by <think>), you MUST output your complete reasoning inside \
<think>...</think> BEFORE any tool calls or final response.

Otherwise, output directly after </think> with tool calls or final response.

### Available Tool Schemas

";

/// After the tool schemas.
pub(super) const TOOLS_POSTAMBLE: &str = "

You MUST strictly follow the above defined tool name and parameter schemas to invoke tool calls.
";

/// Before an answer schema (§B.7).
pub(super) const RESPONSE_FORMAT: &str = "\
## Response Format:

You MUST strictly adhere to the following schema to reply:
";

/// The demand for any JSON object (§B.7).
pub(super) const JSON_OBJECT: &str = "\
You are a helpful assistant designed to output JSON.
## Response Format:

Reply with JSON object ONLY.";

/// The effort text that April writes for `max` and July for `high` (§B.2, §B.9).
pub(super) const EFFORT_ABSOLUTE: &str = "\
Reasoning Effort: Absolute maximum with no shortcuts permitted.
You MUST be very thorough in your thinking and comprehensively decompose the problem to resolve \
the root cause, rigorously stress-testing your logic against all potential paths, edge cases, and \
adversarial scenarios.
Explicitly write out your entire deliberation process, documenting every intermediate step, \
considered alternative, and rejected hypothesis to ensure absolutely no assumption is left \
unchecked.

";

/// The effort text that July writes for `max` (§B.9).
pub(super) const EFFORT_BEYOND: &str = "\
Reasoning Effort: Beyond maximum — exhaustive, relentless, and uncompromising.
You MUST reason with the utmost depth and rigor, leaving absolutely nothing to chance: \
exhaustively decompose the problem into its most fundamental components, \
trace every causal chain to its root, and resolve the underlying cause rather than any surface symptom.
Do not stop reasoning until you have independently verified the solution from multiple angles and \
are certain that no assumption remains unchecked and no error remains undiscovered.

";

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    #[test]
    fn every_byte_is_the_vendor_s() {
        let file = include_str!("../../../../testdata/protocol/literals.json");
        let literals: Value = serde_json::from_str(file).unwrap();
        for (name, text) in [
            ("tools_preamble", TOOLS_PREAMBLE),
            ("tools_postamble", TOOLS_POSTAMBLE),
            ("response_format_preamble", RESPONSE_FORMAT),
            ("json_object_2607", JSON_OBJECT),
            ("reasoning_effort_max_2604", EFFORT_ABSOLUTE),
            ("reasoning_effort_high_2607", EFFORT_ABSOLUTE),
            ("reasoning_effort_max_2607", EFFORT_BEYOND),
        ] {
            assert_eq!(literals[name]["text"], text, "{name}");
            assert_eq!(literals[name]["utf8_bytes"], text.len(), "{name}");
        }
    }
}
