//! JSON text as the model saw it in training: Python's `json.dumps(value, ensure_ascii=False)`
//! (§B.6).
//!
//! Numbers keep the kind they had in the request's text: integers stay exact at any size, floats
//! are written as Python's `repr` of the nearest double.

use std::fmt::Write as _;

use serde_json::{Map, Number, Value};

/// Writes `value` with `", "` and `": "`, keys in their order.
pub fn to_python_json(value: &Value) -> String {
    let mut out = String::new();
    write_value(value, &mut out);
    out
}

/// [`to_python_json`] of an object.
pub fn object_to_python_json(object: &Map<String, Value>) -> String {
    let mut out = String::new();
    write_object(object, &mut out);
    out
}

fn write_value(value: &Value, out: &mut String) {
    match value {
        Value::Null => out.push_str("null"),
        Value::Bool(b) => out.push_str(if *b { "true" } else { "false" }),
        Value::Number(number) => write_number(number, out),
        Value::String(text) => write_string(text, out),
        Value::Array(items) => {
            out.push('[');
            for (i, item) in items.iter().enumerate() {
                out.push_str(if i > 0 { ", " } else { "" });
                write_value(item, out);
            }
            out.push(']');
        }
        Value::Object(object) => write_object(object, out),
    }
}

fn write_object(object: &Map<String, Value>, out: &mut String) {
    out.push('{');
    for (i, (key, value)) in object.iter().enumerate() {
        out.push_str(if i > 0 { ", " } else { "" });
        write_string(key, out);
        out.push_str(": ");
        write_value(value, out);
    }
    out.push('}');
}

/// Appends `text` as a JSON string: only quotes, backslashes and control characters are escaped.
pub(crate) fn write_string(text: &str, out: &mut String) {
    out.push('"');
    write_string_body(text, out);
    out.push('"');
}

/// Appends the inside of a JSON string.
pub(crate) fn write_string_body(text: &str, out: &mut String) {
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            '\0'..='\u{1f}' => {
                let _ = write!(out, "\\u{:04x}", u32::from(c));
            }
            c => out.push(c),
        }
    }
}

fn write_number(number: &Number, out: &mut String) {
    let text = number.to_string();
    if !text.contains(['.', 'e', 'E']) {
        // Python reads -0 as the integer 0.
        out.push_str(if text == "-0" { "0" } else { &text });
        return;
    }
    match text.parse::<f64>() {
        Ok(x) if x.is_infinite() => out.push_str(if x > 0.0 { "Infinity" } else { "-Infinity" }),
        Ok(x) => write_float(x, out),
        Err(_) => out.push_str(&text),
    }
}

/// Python's `repr` of a finite double: the shortest digits that read back as the same number, with
/// an exponent below 1e-4 and from 1e16 on.
fn write_float(x: f64, out: &mut String) {
    let shortest = format!("{x:e}");
    let (mantissa, exponent) = shortest.split_once('e').unwrap_or((&shortest, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if (-4..16).contains(&exponent) {
        let _ = write!(out, "{x}");
        if x.fract() == 0.0 {
            out.push_str(".0");
        }
        return;
    }
    let sign = if exponent < 0 { '-' } else { '+' };
    let _ = write!(out, "{mantissa}e{sign}{:02}", exponent.unsigned_abs());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(json: &str, expected: &str) {
        let value: Value = serde_json::from_str(json).unwrap();
        assert_eq!(to_python_json(&value), expected, "{json}");
    }

    #[test]
    fn separators_order_and_duplicate_keys() {
        check(
            r#"{"z":1,"a":[1,2,{}],"d":1,"m":[],"d":2}"#,
            r#"{"z": 1, "a": [1, 2, {}], "d": 2, "m": []}"#,
        );
        check(" [ true ,false,null ] ", "[true, false, null]");
    }

    #[test]
    fn strings_escape_only_what_python_escapes() {
        check(r#""\u4e2d\/\u00e9\u2028\u007f""#, "\"中/é\u{2028}\u{7f}\"");
        check(r#""\"\\\n\r\t\b\f\u0001\u001f""#, r#""\"\\\n\r\t\b\f\u0001\u001f""#);
        check(r#""\ud83d\ude00""#, "\"😀\"");
    }

    #[test]
    fn numbers_keep_their_kind() {
        for (json, expected) in [
            ("1", "1"),
            ("-3", "-3"),
            ("-0", "0"),
            ("12345678901234567890123456789", "12345678901234567890123456789"),
            ("1.0", "1.0"),
            ("30.0", "30.0"),
            ("1.50", "1.5"),
            ("-0.0", "-0.0"),
            ("1e3", "1000.0"),
            ("1E5", "100000.0"),
            ("1e-4", "0.0001"),
            ("1e-5", "1e-05"),
            ("0.00001234", "1.234e-05"),
            ("1e-7", "1e-07"),
            ("1e15", "1000000000000000.0"),
            ("1e16", "1e+16"),
            ("123456789012345678.0", "1.2345678901234568e+17"),
            ("1e21", "1e+21"),
            ("1e-300", "1e-300"),
            ("0.1", "0.1"),
            ("2.5e-3", "0.0025"),
            ("1e400", "Infinity"),
            ("-1e400", "-Infinity"),
        ] {
            check(json, expected);
        }
    }
}
