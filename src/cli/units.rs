//! Sizes and times as people type them: `4KiB`, `1.5GiB`, `100ms`, `5s`.

use std::time::Duration;

const SIZE_UNITS: [(&str, u64); 12] = [
    ("", 1),
    ("B", 1),
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
    ("K", 1 << 10),
    ("M", 1 << 20),
    ("G", 1 << 30),
    ("T", 1 << 40),
    ("PiB", 1 << 50),
    ("P", 1 << 50),
];

const TIME_UNITS: [(&str, u64); 7] = [
    ("ns", 1),
    ("us", 1_000),
    ("ms", 1_000_000),
    ("s", 1_000_000_000),
    ("min", 60_000_000_000),
    ("m", 60_000_000_000),
    ("h", 3_600_000_000_000),
];

/// Bytes: a number, with a fraction if need be, and `KiB MiB GiB TiB PiB` (or `K M G T P`, all powers of
/// 1024), or nothing for bytes. Case does not matter.
///
/// # Errors
/// A sentence that shows what would do.
pub fn parse_size(text: &str) -> Result<u64, String> {
    match scaled(text, &SIZE_UNITS) {
        Ok(bytes) => Ok(bytes),
        Err(Wrong::Shape) if is_decimal(text) => Err(format!(
            "{text:?} is not a size: units are powers of 1024, such as 4KiB 1MiB 1GiB"
        )),
        Err(Wrong::Shape) => Err(format!(
            "{text:?} is not a size: give bytes, or a number with a unit such as 4KiB 1MiB 1GiB"
        )),
        Err(Wrong::Large) => Err(format!(
            "{text:?} is too large: sizes end at 2^64 - 1 bytes"
        )),
    }
}

/// A span of time: a number, with a fraction if need be, and `ns us ms s m h`.
///
/// # Errors
/// A sentence that shows what would do.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    match scaled(text, &TIME_UNITS) {
        Ok(nanos) => Ok(Duration::from_nanos(nanos)),
        Err(Wrong::Shape) => Err(format!(
            "{text:?} is not a time: give a number with a unit, such as 100ms 5s 2m"
        )),
        Err(Wrong::Large) => Err(format!("{text:?} is too large: times end at 584 years")),
    }
}

enum Wrong {
    Shape,
    Large,
}

/// `KB` and its like mean 1000 to some and 1024 to others; they are refused with a hint.
fn is_decimal(text: &str) -> bool {
    let unit = text.trim_start_matches(|c: char| c.is_ascii_digit() || c == '.');
    ["kb", "mb", "gb", "tb", "pb"].contains(&unit.to_ascii_lowercase().as_str())
}

fn scaled(text: &str, units: &[(&str, u64)]) -> Result<u64, Wrong> {
    let text = text.trim();
    let split = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let factor = units
        .iter()
        .find(|(name, _)| name.eq_ignore_ascii_case(unit.trim_start()));
    let (_, factor) = factor.ok_or(Wrong::Shape)?;
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() || (number.contains('.') && fraction.is_empty()) || fraction.contains('.') {
        return Err(Wrong::Shape);
    }
    let whole: u64 = whole.parse().map_err(|_| Wrong::Large)?;
    let whole = whole.checked_mul(*factor).ok_or(Wrong::Large)?;
    whole
        .checked_add(part(fraction, *factor)?)
        .ok_or(Wrong::Large)
}

/// The fraction of a unit, rounded down; digits beyond the eighteenth do not matter.
fn part(fraction: &str, factor: u64) -> Result<u64, Wrong> {
    let digits = &fraction[..fraction.len().min(18)];
    if digits.is_empty() {
        return Ok(0);
    }
    let number: u128 = digits.parse().map_err(|_| Wrong::Shape)?;
    let scale = 10u128.pow(u32::try_from(digits.len()).map_err(|_| Wrong::Shape)?);
    u64::try_from(number * u128::from(factor) / scale).map_err(|_| Wrong::Large)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn sizes_are_read() {
        for (text, bytes) in [
            ("0", 0),
            ("4096", 4096),
            ("4KiB", 4096),
            ("4kib", 4096),
            ("4k", 4096),
            ("1MiB", 1 << 20),
            ("1.5GiB", 3 << 29),
            ("2 TiB", 2 << 40),
            ("0.5", 0),
            ("18446744073709551615", u64::MAX),
        ] {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
    }

    #[test]
    fn what_is_no_size_is_refused_with_a_hint() {
        for text in [
            "", "KiB", "x", "-1", "1e3", "1..2", ".5", "5.", "4KiBs", "١", "4 4", "+4",
        ] {
            assert!(parse_size(text).unwrap_err().contains("1MiB"), "{text}");
        }
        assert!(parse_size("4MB").unwrap_err().contains("powers of 1024"));
        for text in ["18446744073709551616", "99999999999999GiB", "16384PiB"] {
            assert!(
                parse_size(text).unwrap_err().contains("too large"),
                "{text}"
            );
        }
    }

    #[test]
    fn times_are_read() {
        assert_eq!(parse_duration("100ms"), Ok(Duration::from_millis(100)));
        assert_eq!(parse_duration("1.5s"), Ok(Duration::from_millis(1500)));
        assert_eq!(parse_duration("2m"), Ok(Duration::from_secs(120)));
        assert_eq!(parse_duration("0s"), Ok(Duration::ZERO));
        assert!(parse_duration("5").unwrap_err().contains("5s"));
        assert!(parse_duration("never").is_err());
        assert!(
            parse_duration("9999999999h")
                .unwrap_err()
                .contains("too large")
        );
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "\\PC{0,30}") {
            let _ = (parse_size(&text), parse_duration(&text));
        }
    }
}
