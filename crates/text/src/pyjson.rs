//! JSON text as the model saw it in training: Python's `json.dumps(value, ensure_ascii=False)`
//! (§B.6).
//!
//! Numbers keep the kind they had in the request's text. The encoders of the two profiles differ in
//! how they write some of them: see [`Numbers`].

use std::fmt::Write as _;

use serde_json::{Map, Number, Value};

/// How numbers are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Numbers {
    /// As Python does, and so the April encoder: integers are exact at any size, floats are the
    /// `repr` of the nearest double.
    Python,
    /// As the July encoder does: integers beyond 64 bits are doubles too, small exponents have no
    /// leading zero and begin below 1e-5.
    Doubles,
}

/// Writes `value` with `", "` and `": "`, keys in their order, numbers as Python does.
pub fn to_python_json(value: &Value) -> String {
    to_json(value, Numbers::Python)
}

/// [`to_python_json`] of an object.
pub fn object_to_python_json(object: &Map<String, Value>) -> String {
    let mut out = String::new();
    write_object(object, Numbers::Python, &mut out);
    out
}

/// [`to_python_json`] with numbers written in this way.
pub(crate) fn to_json(value: &Value, numbers: Numbers) -> String {
    let mut out = String::new();
    write_value(value, numbers, &mut out);
    out
}

fn write_value(value: &Value, numbers: Numbers, out: &mut String) {
    match value {
        Value::Null => out.push_str("null"),
        Value::Bool(b) => out.push_str(if *b { "true" } else { "false" }),
        Value::Number(number) => write_number(number, numbers, out),
        Value::String(text) => write_string(text, out),
        Value::Array(items) => {
            out.push('[');
            for (i, item) in items.iter().enumerate() {
                out.push_str(if i > 0 { ", " } else { "" });
                write_value(item, numbers, out);
            }
            out.push(']');
        }
        Value::Object(object) => write_object(object, numbers, out),
    }
}

fn write_object(object: &Map<String, Value>, numbers: Numbers, out: &mut String) {
    out.push('{');
    for (i, (key, value)) in object.iter().enumerate() {
        out.push_str(if i > 0 { ", " } else { "" });
        write_string(key, out);
        out.push_str(": ");
        write_value(value, numbers, out);
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

fn write_number(number: &Number, numbers: Numbers, out: &mut String) {
    let text = number.to_string();
    let is_integer = !text.contains(['.', 'e', 'E']);
    match numbers {
        // Python reads -0 as the integer 0.
        Numbers::Python if is_integer => {
            return out.push_str(if text == "-0" { "0" } else { &text });
        }
        Numbers::Doubles if is_integer && text != "-0" && is_64_bit(number) => {
            return out.push_str(&text);
        }
        _ => {}
    }
    match text.parse::<f64>() {
        Ok(x) if x.is_infinite() => out.push_str(if x > 0.0 { "Infinity" } else { "-Infinity" }),
        Ok(x) => write_float(x, numbers, out),
        Err(_) => out.push_str(&text),
    }
}

fn is_64_bit(number: &Number) -> bool {
    number.is_i64() || number.is_u64()
}

/// Whether all numbers in `value` are finite as doubles: the July encoder cannot read others.
pub(crate) fn has_only_finite(value: &Value) -> bool {
    match value {
        Value::Number(number) => number.as_f64().is_some_and(f64::is_finite),
        Value::Array(items) => items.iter().all(has_only_finite),
        Value::Object(object) => object.values().all(has_only_finite),
        Value::Null | Value::Bool(_) | Value::String(_) => true,
    }
}

/// The shortest digits that read back as the same finite double, with an exponent where it is very
/// small, and from 1e16 on.
fn write_float(x: f64, numbers: Numbers, out: &mut String) {
    let shortest = format!("{x:e}");
    let (mantissa, exponent) = shortest.split_once('e').unwrap_or((&shortest, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    let (least, width) = match numbers {
        Numbers::Python => (-4, 2),
        Numbers::Doubles => (-5, 1),
    };
    if (least..16).contains(&exponent) {
        let _ = write!(out, "{x}");
        if x.fract() == 0.0 {
            out.push_str(".0");
        }
        return;
    }
    let sign = if exponent < 0 { '-' } else { '+' };
    let _ = write!(out, "{mantissa}e{sign}{:0width$}", exponent.unsigned_abs());
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

    #[test]
    fn july_writes_doubles_where_python_does_not() {
        for (json, expected) in [
            ("0", "0"),
            ("-0", "-0.0"),
            ("1.50", "1.5"),
            ("1E5", "100000.0"),
            ("0.00001", "0.00001"),
            ("1e-6", "1e-6"),
            ("1.25e-07", "1.25e-7"),
            ("5e-324", "5e-324"),
            ("1e15", "1000000000000000.0"),
            ("1e16", "1e+16"),
            ("18446744073709551615", "18446744073709551615"),
            ("18446744073709551616", "1.8446744073709552e+19"),
            ("-9223372036854775808", "-9223372036854775808"),
            ("-9223372036854775809", "-9.223372036854776e+18"),
            ("123456789012345678901234567890", "1.2345678901234568e+29"),
        ] {
            let value: Value = serde_json::from_str(json).unwrap();
            assert_eq!(to_json(&value, Numbers::Doubles), expected, "{json}");
        }
        let finite = |json: &str| has_only_finite(&serde_json::from_str(json).unwrap());
        assert!(finite(r#"{"a":[1,1e308,{"b":null}]}"#) && !finite(r#"{"a":[{"b":-1e400}]}"#));
    }
}
