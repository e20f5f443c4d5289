//! Whether two JSON values mean the same: clients read and write numbers and spacing their own way.

use ds4_text::Arguments;
use serde_json::{Map, Number, Value};

/// Whether arguments from a client are those that were parsed from the output.
pub(crate) fn same_arguments(client: &Arguments, parsed: &Value) -> bool {
    match client {
        Arguments::Object(object) => same_object(object, parsed),
        Arguments::Text(text) if text.trim().is_empty() => same_object(&Map::new(), parsed),
        Arguments::Text(text) => match serde_json::from_str::<Value>(text) {
            Ok(Value::Null) => same_object(&Map::new(), parsed),
            Ok(value) => same(&value, parsed),
            Err(_) => false,
        },
    }
}

fn same_object(object: &Map<String, Value>, other: &Value) -> bool {
    let Value::Object(other) = other else { return false };
    let same_value =
        |(key, value): (&String, &Value)| other.get(key).is_some_and(|o| same(value, o));
    object.len() == other.len() && object.iter().all(same_value)
}

/// Equal values; keys in any order.
fn same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Number(a), Value::Number(b)) => same_number(a, b),
        (Value::Array(a), Value::Array(b)) => {
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b))
        }
        (Value::Object(a), b) => same_object(a, b),
        (a, b) => a == b,
    }
}

/// Equal text, or equal as the doubles that most clients read numbers as.
fn same_number(a: &Number, b: &Number) -> bool {
    let (a, b) = (a.to_string(), b.to_string());
    let double = |text: &str| text.parse::<f64>().ok().map(f64::to_bits);
    a == b || (double(&a).is_some() && double(&a) == double(&b))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(client: &str, parsed: &str, expected: bool) {
        let parsed = serde_json::from_str(parsed).unwrap();
        let found = same_arguments(&Arguments::Text(client.to_owned()), &parsed);
        assert_eq!(found, expected, "{client} and {parsed}");
    }

    #[test]
    fn spacing_order_and_spelling_of_numbers_do_not_count() {
        check(r#"{ "b" : [1, 2.0], "a":"x\u0041" }"#, r#"{"a":"xA","b":[1.0,2]}"#, true);
        check(r#"{"n":1e3}"#, r#"{"n":1000}"#, true);
        check(r#"{"n":9007199254740993}"#, r#"{"n":9007199254740993.0}"#, true);
        check("", "{}", true);
        check("null", "{}", true);
    }

    #[test]
    fn every_other_difference_counts() {
        check(r#"{"a":1}"#, r#"{"a":2}"#, false);
        check(r#"{"a":1}"#, r#"{"a":"1"}"#, false);
        check(r#"{"a":1}"#, r#"{"a":1,"b":2}"#, false);
        check(r#"{"a":1,"c":2}"#, r#"{"a":1,"b":2}"#, false);
        check(r#"{"a":[1,2]}"#, r#"{"a":[2,1]}"#, false);
        check(r#"{"a":null}"#, "{}", false);
        check("not json", "{}", false);
        check("[1]", "{}", false);
    }
}
