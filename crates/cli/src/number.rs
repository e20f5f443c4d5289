//! Numbers as C's printf writes them, where a file format was defined by it.

/// `%.9g`: nine significant digits, trailing zeros dropped, an exponent where it is shorter.
pub(crate) fn g9(value: f64) -> String {
    general(value, 9)
}

fn general(value: f64, digits: usize) -> String {
    if value == 0.0 {
        return if value.is_sign_negative() { "-0" } else { "0" }.to_owned();
    }
    if !value.is_finite() {
        let sign = if value.is_sign_negative() { "-" } else { "" };
        return format!("{sign}{}", if value.is_nan() { "nan" } else { "inf" });
    }
    let scientific = format!("{value:.*e}", digits - 1);
    let (mantissa, exponent) = scientific.split_once('e').expect("the e of the format");
    let exponent: i32 = exponent.parse().expect("an integer exponent");
    let precision = i32::try_from(digits).expect("a small number");
    if exponent < -4 || exponent >= precision {
        let sign = if exponent < 0 { '-' } else { '+' };
        return format!("{}e{sign}{:02}", trimmed(mantissa), exponent.abs());
    }
    let decimals = usize::try_from(precision - 1 - exponent).expect("the exponent is smaller");
    trimmed(&format!("{value:.decimals$}")).to_owned()
}

/// Without the zeros at the end of its fraction.
fn trimmed(text: &str) -> &str {
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nine_significant_digits_as_in_c() {
        for (value, want) in [
            (0.0, "0"),
            (-0.0, "-0"),
            (1.0, "1"),
            (-12.5, "-12.5"),
            (1.0 / 3.0, "0.333333333"),
            (123_456_789.0, "123456789"),
            (1_234_567_891.0, "1.23456789e+09"),
            (0.0001, "0.0001"),
            (0.000_012_345_678_912, "1.23456789e-05"),
            (999_999_999.9, "1e+09"),
            (-2.0e-300, "-2e-300"),
            (f64::NEG_INFINITY, "-inf"),
        ] {
            assert_eq!(g9(value), want);
        }
    }
}
