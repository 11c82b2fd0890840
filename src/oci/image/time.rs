//! When was that, for programs and for people?

use jiff::Timestamp;

use super::super::error::{Error, Result};

/// Now, or what `SOURCE_DATE_EPOCH` says, as RFC 3339 has it.
pub(super) fn now() -> Result<String> {
    let epoch = super::super::layer::source_date_epoch()?;
    let now = match epoch {
        None => Timestamp::now(),
        Some(seconds) => Timestamp::from_second(seconds)
            .map_err(|_| Error::Usage("SOURCE_DATE_EPOCH is beyond the year 9999".to_owned()))?,
    };
    Ok(now.to_string())
}

/// `3 minutes ago`; what is no time as it is.
pub(super) fn ago(text: &str) -> String {
    let Ok(then) = text.parse::<Timestamp>() else {
        return if text.is_empty() { "never".to_owned() } else { text.to_owned() };
    };
    let seconds = Timestamp::now().as_second().saturating_sub(then.as_second()).max(0);
    let (number, unit) = match seconds {
        0..120 => (seconds, "second"),
        120..7_200 => (seconds / 60, "minute"),
        7_200..172_800 => (seconds / 3_600, "hour"),
        172_800..1_209_600 => (seconds / 86_400, "day"),
        1_209_600..5_184_000 => (seconds / 604_800, "week"),
        5_184_000..63_072_000 => (seconds / 2_592_000, "month"),
        _ => (seconds / 31_536_000, "year"),
    };
    format!("{number} {unit}{} ago", if number == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_told_as_docker_tells_them() {
        let before = |seconds| {
            let now = Timestamp::now().as_second();
            ago(&Timestamp::from_second(now - seconds).expect("a time").to_string())
        };
        assert_eq!(before(3 * 3_600 + 5), "3 hours ago");
        assert_eq!(before(3 * 86_400), "3 days ago");
        assert_eq!(before(4 * 31_536_000), "4 years ago");
        assert_eq!((ago(""), ago("soon")), ("never".to_owned(), "soon".to_owned()));
    }
}
