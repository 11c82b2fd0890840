//! How are sizes and times written, for people to read and as they write them?

/// 1 KiB.
pub const KIB: u64 = 1 << 10;
/// 1 MiB.
pub const MIB: u64 = 1 << 20;
/// 1 GiB.
pub const GIB: u64 = 1 << 30;

const UNITS: [(&str, u64); 3] = [("GiB", GIB), ("MiB", MIB), ("KiB", KIB)];

/// `64KiB`, `16 MiB`, `1g` or a plain number of bytes.
///
/// # Errors
/// Says how a size is written.
pub fn parse_size(text: &str) -> Result<u64, String> {
    let wrong = || format!("`{text}` is not a size: write a number and KiB, MiB or GiB, such as 64KiB");
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().map_err(|_| wrong())?;
    let unit = unit.trim_start().to_ascii_lowercase();
    let factor = match unit.as_str() {
        "" | "b" => Some(1),
        _ => UNITS.into_iter().find_map(|(name, factor)| {
            let name = name.to_ascii_lowercase();
            (unit == name || unit == name[..1]).then_some(factor)
        }),
    };
    number.checked_mul(factor.ok_or_else(wrong)?).ok_or_else(wrong)
}

/// `4 KiB`, `1.5 GiB`.
#[must_use]
pub fn size(bytes: u64) -> String {
    for (name, factor) in UNITS {
        if bytes >= factor {
            let tenths = bytes as f64 / factor as f64;
            return if bytes.is_multiple_of(factor) {
                format!("{tenths:.0} {name}")
            } else {
                format!("{tenths:.1} {name}")
            };
        }
    }
    format!("{bytes} B")
}

/// Seconds in the unit that fits, with three digits: `35.1 µs`, `1.20 ms`, `12.0 s`.
#[must_use]
pub fn time(seconds: f64) -> String {
    let (value, unit) = match seconds {
        s if s >= 1.0 => (s, "s"),
        s if s >= 1e-3 => (s * 1e3, "ms"),
        s => (s * 1e6, "µs"),
    };
    format!("{} {unit}", digits(value))
}

/// A number with three digits: `0.12`, `3.40`, `56.7`, `890`.
#[must_use]
pub fn digits(value: f64) -> String {
    let after_the_point = match value {
        v if v >= 99.95 => 0,
        v if v >= 9.995 => 1,
        _ => 2,
    };
    format!("{value:.after_the_point$}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_as_people_write_them() {
        for (text, bytes) in [
            ("4096", 4096),
            ("64KiB", 64 * KIB),
            ("64 kib", 64 * KIB),
            ("16M", 16 * MIB),
            ("1GiB", GIB),
            ("7b", 7),
        ] {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
        for text in ["", "KiB", "-1", "1.5GiB", "1TiB", "1KB", "99999999999GiB", "1 2"] {
            let error = parse_size(text).expect_err(text);
            assert!(error.contains(&format!("`{text}`")) && error.contains("64KiB"), "{error}");
        }
    }

    #[test]
    fn sizes_and_times_are_written_in_the_unit_that_fits() {
        for (bytes, text) in
            [(0, "0 B"), (100, "100 B"), (4 * KIB, "4 KiB"), (GIB + GIB / 2, "1.5 GiB"), (GIB, "1 GiB")]
        {
            assert_eq!(size(bytes), text);
        }
        for (seconds, text) in [
            (0.000_001_5, "1.50 µs"),
            (0.000_035, "35.0 µs"),
            (0.0012, "1.20 ms"),
            (0.25, "250 ms"),
            (12.0, "12.0 s"),
        ] {
            assert_eq!(time(seconds), text);
        }
    }
}
