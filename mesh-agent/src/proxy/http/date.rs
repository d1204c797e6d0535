//! Points in time as text, in UTC: what `%START_TIME%` stands for in a header.

use std::fmt::{self, Write};
use std::time::{SystemTime, UNIX_EPOCH};

/// A point in time, taken apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Moment {
    seconds: i64,
    nanos: u32,
    year: i64,
    month: u32,
    day: u32,
    day_of_year: u32,
}

const DAY: i64 = 24 * 60 * 60;

const WEEKDAYS: [&str; 7] = [
    "Sunday",
    "Monday",
    "Tuesday",
    "Wednesday",
    "Thursday",
    "Friday",
    "Saturday",
];

const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];

/// `2026-11-25T07:34:23.300Z`, or in a format of `strftime` with Envoy's additions: `%3f` and its like are fractions of a
/// second, `%E3S` seconds with them, `%Ez` the offset with a colon. What is not known stands as it is.
pub(super) fn format(time: SystemTime, format: Option<&str>) -> String {
    let moment = Moment::of(time);
    let mut out = String::new();
    // Writing to a string does not fail.
    let _ = moment.write(&mut out, format.unwrap_or("%Y-%m-%dT%H:%M:%E3SZ"));
    out
}

impl Moment {
    fn of(time: SystemTime) -> Self {
        // Clocks of before 1970 are not set yet.
        let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
        let seconds = i64::try_from(since.as_secs()).unwrap_or(i64::MAX);
        let (year, month, day) = civil(seconds / DAY);
        Self {
            seconds,
            nanos: since.subsec_nanos(),
            year,
            month,
            day,
            day_of_year: 1 + u32::try_from(seconds / DAY - days_before(year)).unwrap_or(0),
        }
    }

    fn write(&self, out: &mut String, format: &str) -> fmt::Result {
        let mut rest = format;
        while let Some(at) = rest.find('%') {
            out.push_str(&rest[..at]);
            rest = &rest[at..];
            let length = specifier(rest);
            let (directive, after) = rest.split_at(length);
            if !self.directive(out, &directive[1..])? {
                out.push_str(directive);
            }
            rest = after;
        }
        out.push_str(rest);
        Ok(())
    }

    /// Writes what a directive stands for. Gives false where it is not known.
    fn directive(&self, out: &mut String, directive: &str) -> Result<bool, fmt::Error> {
        let of_day = self.seconds % DAY;
        let (hour, minute, second) = (of_day / 3600, of_day / 60 % 60, of_day % 60);
        let weekday = WEEKDAYS[usize::try_from((self.seconds / DAY + 4) % 7).unwrap_or(0)];
        let month = MONTHS[self.month as usize - 1];
        match directive {
            "Y" => write!(out, "{}", self.year)?,
            "y" => write!(out, "{:02}", self.year % 100)?,
            "C" => write!(out, "{:02}", self.year / 100)?,
            "m" => write!(out, "{:02}", self.month)?,
            "d" => write!(out, "{:02}", self.day)?,
            "e" => write!(out, "{:2}", self.day)?,
            "j" => write!(out, "{:03}", self.day_of_year)?,
            "H" => write!(out, "{hour:02}")?,
            "I" => write!(out, "{:02}", (hour + 11) % 12 + 1)?,
            "p" => out.push_str(if hour < 12 { "AM" } else { "PM" }),
            "M" => write!(out, "{minute:02}")?,
            "S" => write!(out, "{second:02}")?,
            "s" => write!(out, "{}", self.seconds)?,
            "a" => out.push_str(&weekday[..3]),
            "A" => out.push_str(weekday),
            "b" | "h" => out.push_str(&month[..3]),
            "B" => out.push_str(month),
            "F" => self.write(out, "%Y-%m-%d")?,
            "T" => self.write(out, "%H:%M:%S")?,
            "R" => self.write(out, "%H:%M")?,
            "D" => self.write(out, "%m/%d/%y")?,
            "z" => out.push_str("+0000"),
            "Ez" => out.push_str("+00:00"),
            "Z" => out.push_str("UTC"),
            "n" => out.push('\n'),
            "t" => out.push('\t'),
            "%" => out.push('%'),
            "f" => self.fraction(out, 9)?,
            _ => return self.with_digits(out, directive, second),
        }
        Ok(true)
    }

    /// `3f` and `E3S`.
    fn with_digits(
        &self,
        out: &mut String,
        directive: &str,
        second: i64,
    ) -> Result<bool, fmt::Error> {
        let of = |digits: &str| {
            let digits = digits.parse::<usize>().ok();
            digits.filter(|digits| (1..=9).contains(digits))
        };
        if let Some(digits) = directive.strip_suffix('f').and_then(of) {
            self.fraction(out, digits)?;
            return Ok(true);
        }
        let seconds = directive
            .strip_prefix('E')
            .and_then(|d| d.strip_suffix('S'));
        if let Some(digits) = seconds.and_then(of) {
            write!(out, "{second:02}.")?;
            self.fraction(out, digits)?;
            return Ok(true);
        }
        Ok(false)
    }

    fn fraction(&self, out: &mut String, digits: usize) -> fmt::Result {
        let nanos = format!("{:09}", self.nanos);
        out.write_str(&nanos[..digits])
    }
}

/// How long the directive is that `text` begins with.
fn specifier(text: &str) -> usize {
    let modifiers = text[1..]
        .find(|c: char| c != 'E' && !c.is_ascii_digit())
        .map_or(text.len(), |at| at + 1);
    text[modifiers..]
        .chars()
        .next()
        .map_or(text.len(), |last| modifiers + last.len_utf8())
}

/// Year, month and day of a day since 1970. Eras of 400 years repeat, and a year that begins in March has its odd day
/// last.
fn civil(days: i64) -> (i64, u32, u32) {
    let days = days + 719_468;
    let era = days / 146_097;
    let of_era = days % 146_097;
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let shifted = (5 * of_year + 2) / 153;
    let day = of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 {
        shifted + 3
    } else {
        shifted - 9
    };
    let year = year + era * 400 + i64::from(month <= 2);
    let narrow = |n| u32::try_from(n).unwrap_or(1);
    (year, narrow(month), narrow(day))
}

/// The days from 1970 to the first of January of a year.
fn days_before(year: i64) -> i64 {
    let past = year - 1;
    365 * (year - 1970) + (past / 4 - past / 100 + past / 400)
        - (1969 / 4 - 1969 / 100 + 1969 / 400)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn check(seconds: u64, nanos: u32, directives: Option<&str>, expected: &str) {
        let time = UNIX_EPOCH + Duration::new(seconds, nanos);
        assert_eq!(format(time, directives), expected, "{directives:?}");
    }

    #[test]
    fn days_have_names() {
        check(0, 0, None, "1970-01-01T00:00:00.000Z");
        check(951_782_400, 0, Some("%F %a %j"), "2000-02-29 Tue 060");
        check(
            1_709_164_800,
            0,
            Some("%F %A %j"),
            "2024-02-29 Thursday 060",
        );
        check(
            1_735_689_599,
            0,
            Some("%F %T %j"),
            "2024-12-31 23:59:59 366",
        );
        check(
            4_107_542_400,
            0,
            Some("%F %b %B %j"),
            "2100-03-01 Mar March 060",
        );
    }

    #[test]
    fn says_what_envoy_says() {
        let time = (1_795_592_097, 382_378_000);
        let check = |directives, expected| check(time.0, time.1, directives, expected);
        check(None, "2026-11-25T07:34:57.382Z");
        check(Some("%Y/%m/%d %s %3f"), "2026/11/25 1795592097 382");
        check(
            Some("%Y-%m-%dT%H:%M:%S.%6fZ %e %j %a %Ez %E3S %z %Q"),
            "2026-11-25T07:34:57.382378Z 25 329 Wed +00:00 57.382 +0000 %Q",
        );
        check(Some("%I %p%%%"), "07 AM%%");
        check(Some("100%"), "100%");
        check(Some("%ä%E"), "%ä%E");
    }
}
