//! Numbers of bytes as people write them.

/// Units: powers of 1000, and with an `i` of 1024.
const UNITS: [(&str, u64); 9] = [
    ("", 1),
    ("k", 1000),
    ("m", 1_000_000),
    ("g", 1_000_000_000),
    ("t", 1_000_000_000_000),
    ("ki", 1 << 10),
    ("mi", 1 << 20),
    ("gi", 1 << 30),
    ("ti", 1 << 40),
];

/// Reads bytes: `4096`, `500kB`, `1.5GiB`. What is written in small letters, or without the B, means the same.
pub(super) fn size(text: &str) -> Result<u64, String> {
    let text = text.trim().to_ascii_lowercase();
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let unit = unit.trim_start();
    let unit = unit.strip_suffix('b').unwrap_or(unit);
    let factor = UNITS.iter().find(|(name, _)| *name == unit).map(|(_, factor)| *factor as f64);
    let bytes = number.parse::<f64>().ok().zip(factor).map(|(number, factor)| number * factor);
    // Up to 2^53, a number of bytes is exact.
    match bytes {
        Some(bytes) if bytes <= (1_u64 << 53) as f64 => Ok(bytes as u64),
        _ => Err("write it like 4096, 500kB or 1.5GiB".to_owned()),
    }
}

/// Reads bytes per second: as [`size`], with or without `/s`.
pub(super) fn rate(text: &str) -> Result<u64, String> {
    let number = text.trim();
    let number = number.strip_suffix("/s").unwrap_or(number);
    match size(number) {
        Ok(0) => Err("nothing could be sent to peers; --relay-only does without them".to_owned()),
        Ok(rate) => Ok(rate),
        Err(_) => Err("write it like 500kB/s or 2MiB/s".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_as_people_write_them() {
        for (text, bytes) in [
            ("0", 0),
            ("4096", 4096),
            ("500kB", 500_000),
            ("500 KB", 500_000),
            ("2MiB", 2 << 20),
            ("2mi", 2 << 20),
            ("1.5GiB", 3 << 29),
            ("1g", 1_000_000_000),
            ("1TiB", 1 << 40),
            ("7b", 7),
        ] {
            assert_eq!(size(text), Ok(bytes), "{text}");
        }
        for text in ["", "B", "many", "-1", "1e3", "1.2.3", "NaN", "1 x", "1kibib", "99999999 TiB"] {
            assert!(size(text).is_err(), "{text}");
        }
        assert_eq!(rate("2MiB/s"), Ok(2 << 20));
        assert_eq!(rate("2MiB"), Ok(2 << 20));
        assert!(rate("0").is_err() && rate("2/s/s").is_err());
    }
}
