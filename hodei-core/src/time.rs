//! Points in time, deadlines and durations as values. Core never reads a clock.

use std::fmt;
use std::ops::{Add, Sub};
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Microseconds since 1970-01-01T00:00:00Z, without leap seconds.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Timestamp(i64);

impl Timestamp {
    /// 1970-01-01T00:00:00Z.
    pub const EPOCH: Timestamp = Timestamp(0);

    /// Makes a timestamp from microseconds since the epoch.
    pub const fn from_micros(micros: i64) -> Self {
        Self(micros)
    }

    /// Returns microseconds since the epoch.
    pub const fn as_micros(self) -> i64 {
        self.0
    }

    /// Returns the time from `earlier` to this; zero when `earlier` is not earlier.
    pub fn since(self, earlier: Timestamp) -> Duration {
        Duration::from_micros(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }
}

/// One reading of both clocks. The time of day may be set back or ahead; the monotonic clock never is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Moment {
    /// The time of day.
    pub wall: Timestamp,
    /// Time since a fixed point of this process.
    pub monotonic: Duration,
}

/// The end of a wait that is stored as a time of day and measured by the monotonic clock too, so that a clock that is
/// set back does not extend the wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Deadline {
    /// End of the wait by the time of day.
    pub at: Timestamp,
    /// End of the wait by the monotonic clock.
    pub due: Duration,
}

impl Deadline {
    /// Makes the deadline of a wait that ends `at`, lasts at most `longest`, and is first seen `now`.
    pub fn new(at: Timestamp, longest: Duration, now: Moment) -> Self {
        Self { at, due: now.monotonic.saturating_add(at.since(now.wall).min(longest)) }
    }

    /// Whether the wait is over by either clock.
    pub fn is_over(self, now: Moment) -> bool {
        self.at <= now.wall || self.due <= now.monotonic
    }

    /// Returns the remaining wait by the clock that ends it first.
    pub fn left(self, now: Moment) -> Duration {
        self.at.since(now.wall).min(self.due.saturating_sub(now.monotonic))
    }
}

/// Parses a duration: numbers, each with a unit `ms`, `s`, `m`, `h` or `d` (24 hours), as in `500ms`, `1.5s` and
/// `1h30m`. Fractions of a nanosecond are cut off.
///
/// # Errors
/// [`ParseDurationError`] when the text has another form, is negative, or is longer than a `Duration` can be.
pub fn parse_duration(text: &str) -> Result<Duration, ParseDurationError> {
    let malformed = || ParseDurationError::Malformed(text.chars().take(40).collect());
    if text.starts_with('-') {
        return Err(ParseDurationError::Negative(text.chars().take(40).collect()));
    }
    let (mut rest, mut nanos) = (text, 0_u128);
    while !rest.is_empty() {
        let number = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(malformed)?;
        let (whole, fraction) = rest[..number].split_once('.').unwrap_or((&rest[..number], "0"));
        let length = rest[number..].find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(rest.len() - number);
        let unit: u128 = match &rest[number..number + length] {
            "ms" => 1_000_000,
            "s" => 1_000_000_000,
            "m" => 60_000_000_000,
            "h" => 3_600_000_000_000,
            "d" => 86_400_000_000_000,
            _ => return Err(malformed()),
        };
        // A u64 and a fraction of 18 digits fit into a u128 for each unit.
        let whole: u64 = whole.parse().map_err(|_| malformed())?;
        let digits = fraction.get(..18).unwrap_or(fraction);
        let fraction = u128::from(digits.parse::<u64>().map_err(|_| malformed())?) * unit;
        nanos += u128::from(whole) * unit + fraction / 10_u128.pow(digits.len() as u32);
        rest = &rest[number + length..];
    }
    if text.is_empty() {
        return Err(malformed());
    }
    let seconds = u64::try_from(nanos / 1_000_000_000).map_err(|_| malformed())?;
    Ok(Duration::new(seconds, (nanos % 1_000_000_000) as u32))
}

/// The text is not a duration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseDurationError {
    /// The text has another form, or is too long for a `Duration`.
    #[error("`{0}` is not a duration: write it with a unit, such as 500ms, 1.5s, 2m or 7d")]
    Malformed(String),
    /// The duration is below zero.
    #[error("`{0}` is negative")]
    Negative(String),
}

impl Add<Duration> for Timestamp {
    type Output = Timestamp;

    /// Saturates at the end of the range.
    fn add(self, duration: Duration) -> Timestamp {
        Timestamp(self.0.saturating_add(i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)))
    }
}

impl Sub<Duration> for Timestamp {
    type Output = Timestamp;

    /// Saturates at the beginning of the range.
    fn sub(self, duration: Duration) -> Timestamp {
        Timestamp(self.0.saturating_sub(i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)))
    }
}

impl fmt::Display for Timestamp {
    /// RFC 3339 in UTC with microseconds. The calendar is Howard Hinnant's `civil_from_days`
    /// (<https://howardhinnant.github.io/date_algorithms.html>).
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (seconds, micros) = (self.0.div_euclid(1_000_000), self.0.rem_euclid(1_000_000));
        let (days, second) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
        let z = days + 719_468;
        let era = z.div_euclid(146_097);
        let day_of_era = z.rem_euclid(146_097);
        let year_of_era =
            (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let month_index = (5 * day_of_year + 2) / 153;
        let day = day_of_year - (153 * month_index + 2) / 5 + 1;
        let month = if month_index < 10 { month_index + 3 } else { month_index - 9 };
        let year = year_of_era + era * 400 + i64::from(month <= 2);
        let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
        write!(f, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{micros:06}Z")
    }
}

impl fmt::Debug for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timestamp_prints_as_rfc_3339() {
        assert_eq!(Timestamp::EPOCH.to_string(), "1970-01-01T00:00:00.000000Z");
        assert_eq!(Timestamp::from_micros(1_709_210_096_789_012).to_string(), "2024-02-29T12:34:56.789012Z");
        assert_eq!(Timestamp::from_micros(-1).to_string(), "1969-12-31T23:59:59.999999Z");
    }

    #[test]
    fn a_wait_ends_by_the_clock_that_ends_it_first() {
        let at = |wall: u64, monotonic: u64| Moment {
            wall: Timestamp::EPOCH + Duration::from_secs(wall),
            monotonic: Duration::from_secs(monotonic),
        };
        let end = Timestamp::EPOCH + Duration::from_secs(10_004);
        let deadline = Deadline::new(end, Duration::from_secs(4), at(10_000, 50));
        assert!(!deadline.is_over(at(10_003, 53)) && deadline.is_over(at(10_004, 54)));
        assert!(!deadline.is_over(at(2_803, 53)), "the clock was set back two hours");
        assert_eq!(deadline.left(at(2_803, 53)), Duration::from_secs(1));
        assert!(deadline.is_over(at(2_804, 54)));
        assert!(deadline.is_over(at(20_000, 51)), "the machine slept, or its clock was set ahead");
        let after_a_restart = Deadline::new(end, Duration::from_secs(4), at(2_801, 0));
        assert!(!after_a_restart.is_over(at(2_804, 3)) && after_a_restart.is_over(at(2_805, 4)));
    }

    #[test]
    fn arithmetic_saturates() {
        assert_eq!(Timestamp::EPOCH.since(Timestamp::from_micros(5)), Duration::ZERO);
        assert_eq!(Timestamp::EPOCH + Duration::MAX, Timestamp::from_micros(i64::MAX));
    }

    #[test]
    fn a_duration_without_a_unit_is_refused() {
        let cases = [
            ("500ms", 500),
            ("1.5s", 1_500),
            ("2m", 120_000),
            ("1h30m", 5_400_000),
            ("7d", 604_800_000),
            ("0s", 0),
            ("0.0001d12ms", 8_652),
        ];
        for (text, millis) in cases {
            assert_eq!(parse_duration(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        assert_eq!(parse_duration("0.0000000019999999999999999999s"), Ok(Duration::from_nanos(1)));
        let bad = [
            "",
            "5",
            "s",
            ".5s",
            "5.s",
            "1.2.3s",
            "5 s",
            "5y",
            "soon",
            "1h30",
            "99999999999999999999s",
            "\u{661}s",
        ];
        for text in bad {
            assert!(matches!(parse_duration(text), Err(ParseDurationError::Malformed(_))), "{text}");
        }
        assert!(matches!(parse_duration("-5s"), Err(ParseDurationError::Negative(_))));
        assert!(parse_duration(&format!("{}d", u64::MAX)).is_err());
    }
}
